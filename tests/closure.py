"""What modules of this tree import, for tests of who may import whom."""

from __future__ import annotations

import ast

from fewstep.util.source_code import ROOT, imports, module_name

__all__ = ["ROOT", "imported"]


def imported(layer: str) -> list[tuple[str, str]]:
    """(path, dotted name) of every import below a folder of the tree, imports for type checking left out."""
    pairs = []
    for path in sorted((ROOT / layer).rglob("*.py")):
        short = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imports(tree, module_name(short), path.name == "__init__.py")
        pairs += [(short, name) for name in names]
    return pairs
