"""The code that a cell's figures depend on (fewstep.util.source_code): only cells of changed code are made again."""

from functools import cache

from fewstep.objectives.registry import term_modules
from fewstep.recipes import Recipe
from fewstep.util.source_code import APART, SourceTree

JUDGING = ("fewstep.conformance.verdict", "fewstep.conformance.problems")
TRAINING = ("fewstep.training.api",)


def modules_of(recipe: Recipe) -> set[str]:
    """The modules of the recipe's terms and of their settings."""
    return {module for own in recipe.rounds for term in own.terms for module in term_modules(term.term)}


def code_digest(*modules: str) -> str:
    """Digest of the statements of all files of fewstep that these modules may load."""
    return _tree().code(modules, apart=APART).digest


@cache
def _tree() -> SourceTree:
    return SourceTree()
