"""The code that a cell's figures depend on, read from the imports, so that only cells of changed code are stale."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from fewstep.objectives.registry import term_modules
from fewstep.recipes import Recipe
from fewstep.util.import_closure import ROOT, closure

JUDGING = ("fewstep.conformance.verdict", "fewstep.conformance.problems")
TRAINING = ("fewstep.training.api",)


def modules_of(recipe: Recipe) -> set[str]:
    """The modules of the recipe's terms and of their settings."""
    return {module for r in recipe.rounds for term in r.terms for module in term_modules(term.term)}


def code_digest(*modules: str) -> str:
    """SHA-256 over the names and statements of all files of fewstep that these modules may load.

    Comments, layout and strings that only describe do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(frozenset().union(*(closure(module) for module in modules))):
        content = statements(ROOT / path).encode()
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@cache
def statements(path: Path) -> str:
    """What a Python file says to do, as text: its syntax tree without what only describes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            kept = getattr(node, field, None)
            if isinstance(kept, list):
                setattr(node, field, [line for line in kept if not _describes(line)])
    return ast.unparse(tree)


def _describes(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
