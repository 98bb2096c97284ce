"""The code that a cell's figures depend on, read from the imports, so that only cells of changed code are stale."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from fewstep.recipes import Recipe

ROOT = Path(__file__).resolve().parents[2]
JUDGING = ("fewstep.conformance.judging", "fewstep.conformance.problems")
TRAINING = ("fewstep.training.api",)
COLLECTIONS = ("fewstep/terms/__init__.py", "fewstep/recipes/terms/__init__.py")
"""Import every term; a recipe depends on those that it names."""


def modules_of(recipe: Recipe) -> set[str]:
    """The modules of the recipe's terms and of their settings."""
    from fewstep.terms import TERMS

    terms = [term for r in recipe.rounds for term in r.terms]
    return {TERMS[term.term].__module__ for term in terms} | {type(term).__module__ for term in terms}


def code_digest(*modules: str) -> str:
    """SHA-256 over the names and bytes of all files of fewstep that these modules may load."""
    digest = hashlib.sha256()
    for path in sorted(frozenset().union(*(closure(module) for module in modules))):
        content = (ROOT / path).read_bytes()
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@functools.cache
def closure(module: str) -> frozenset[str]:
    """Files of fewstep that importing and using `module` may load, imports within functions included."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or path in seen or path in COLLECTIONS:
            continue
        seen.add(path)
        parts = name.split(".")
        todo += [".".join(parts[:count]) for count in range(1, len(parts))]
        todo += _imports(ROOT / path, name)
    return frozenset(seen)


def _file(module: str) -> str | None:
    base = ROOT / module.replace(".", "/")
    found = next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
    return found.relative_to(ROOT).as_posix() if found and module.split(".")[0] == "fewstep" else None


def _imports(path: Path, module: str) -> Iterator[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
