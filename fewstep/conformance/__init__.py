"""Conformance: does a recipe, distilled on a closed-form teacher, give the samples that it promises?

    python -m fewstep.conformance [RECIPE ...] [--problems ring,grid,pair] [--process edm] [--dimension 8] [--seed 1]

Each cell (recipe x problem x seed) trains by `distill` and is judged by the target that the recipe declares; its
figures stand in a JSON file keyed by the recipe's settings and the code that trains and judges, so that a second call
makes only what is missing or stale. Where that code was edited a short run of some seconds shows whether a bit of what
it computes changed. `--table` writes docs/conformance.md and the table of docs/recipes.md from these files.
"""
