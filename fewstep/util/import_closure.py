"""What a module of this project may load, read from the source: no module is imported for it. No torch here."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def closure(module: str, packages: tuple[str, ...] = ("fewstep",),
            apart: frozenset[str] = frozenset()) -> frozenset[str]:  # fmt: skip
    """Files of `packages`, below ROOT, that importing and using `module` may load.

    Imports within functions count, those for type checking alone do not; of a package that looks its names up when
    asked (`__getattr__`) every module counts. Files in `apart` are left out, with what only they import.
    """
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        path = _file(name, packages)
        if path is None or path in seen or path in apart:
            continue
        seen.add(path)
        parts = name.split(".")
        todo += [".".join(parts[:count]) for count in range(1, len(parts))]
        for found in imports(ROOT / path, name):
            todo += [found, *_looked_up(found, packages)]
    return frozenset(seen)


def imports(path: Path, module: str) -> Iterator[str]:
    """Dotted names that a source file imports (of `from a import b` both a and a.b), type checking apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unused = {id(inner) for node in checks for body in node.body for inner in ast.walk(body)}
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _file(module: str, packages: tuple[str, ...]) -> str | None:
    """The file of `module` below ROOT; None for a name that is no module of `packages`."""
    base = ROOT / module.replace(".", "/")
    found = next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
    return found.relative_to(ROOT).as_posix() if found and module.split(".")[0] in packages else None


def _looked_up(name: str, packages: tuple[str, ...]) -> list[str]:
    """All modules of the package of `name`, where `name` is no module and the package's `__getattr__` finds it."""
    package = name.rpartition(".")[0]
    home = _file(package, packages)
    if home is None or not home.endswith("__init__.py") or _file(name, packages) is not None:
        return []
    if "def __getattr__" not in (ROOT / home).read_text(encoding="utf-8"):
        return []
    return [f"{package}.{file.stem}" for file in (ROOT / home).parent.glob("*.py")]
