"""`python -m fewstep.conformance`: see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fewstep.conformance import __doc__ as about
from fewstep.conformance.cells import FOLDER, IMAGES, Cell, make_all
from fewstep.conformance.conformance_table import line, write_tables
from fewstep.conformance.problems import MIXTURES, PROCESSES, SUITE, Problem
from fewstep.conformance.traces import compared
from fewstep.recipes import load_recipe, recipe_names
from fewstep.util.errors import FewstepError


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The cells that the options ask for, problem by problem, so that each problem's references are made early."""
    return [
        Cell(recipe, Problem(kind, process or usual_process(recipe), options.dimension, options.variant), seed,
             options.images)
        for process in options.process.split(",")
        for seed in range(options.seed, options.seed + options.seeds)
        for recipe in options.recipes or recipe_names()
        for kind in options.problems.split(",")
    ]


def usual_process(recipe: str) -> str:
    """The process that a recipe is proven in unless another is asked for: a bridge's own is a bridge."""
    return "bridge" if load_recipe(recipe).target == "bridge" else "cosine"


def main(arguments: list[str] | None = None) -> int:
    """Makes and prints the cells, or compares their traces; 1 if one missed the bar or differs, 2 for settings that
    cannot be."""
    parser = argparse.ArgumentParser("python -m fewstep.conformance", description=about,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("recipes", nargs="*", help="names or YAML files; by default all")
    add("--problems", default=",".join(SUITE), help=f"of {', '.join(MIXTURES)} (default %(default)s)")
    add("--process", default="", help=f"of {', '.join(PROCESSES)}, by default cosine (for bridges: bridge)")
    add("--dimension", type=int, default=2, help="of the samples")
    add("--variant", type=int, default=0, help="of what is random about the mixture")
    add("--seed", type=int, default=0, help="of training; the first of --seeds")
    add("--seeds", type=int, default=1)
    add("--images", type=int, default=IMAGES, help="training samples of a run (default %(default)s)")
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--folder", type=Path, default=FOLDER, help="of the figures (default %(default)s)")
    add("--traces", type=Path, metavar="FILE", help="train but a short run of each cell, and say whether it gives the "
        "weights that FILE has of other code on this machine (1 if one differs); what it lacks is added")
    add("--table", action="store_true", help="write docs/conformance.md and docs/recipes.md from the figures")
    options = parser.parse_args(arguments)
    try:
        cells = cells_of(options)
        missed = 0
        if options.traces is not None:
            for name, outcome in compared(cells, options.traces, options.workers):
                print(f"{name:<45} {outcome}", flush=True)
                missed += outcome == "differs"
            return int(missed > 0)
        for record in make_all(cells, options.folder, options.workers):
            print(line(record), flush=True)
            missed += bool(record["missed"])
        if options.table:
            write_tables(cells, options.folder)
    except FewstepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
