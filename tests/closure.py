"""What a module can import, read from the source: imports in functions and by packages' __getattr__ included."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fewstep", "tasks", "flows")
MACHINERY = {   # what every stage is run through: it decides whether and where, never which bytes
    "fewstep/__init__.py", "fewstep/configuration.py", "fewstep/errors.py", "tasks/__init__.py", "tasks/files.py",
    "tasks/manifest.py",
}


@functools.cache
def closure(module: str) -> frozenset[str]:
    """Files of this project that importing and using `module` may load, without the machinery."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or path in seen or path in MACHINERY:
            continue
        seen.add(path)
        parts = name.split(".")
        todo += [".".join(parts[:count]) for count in range(1, len(parts))]
        for found in imports(ROOT / path, name):
            todo.append(found)
            package, _, attribute = found.rpartition(".")
            home = _file(package) or ""     # a name that is no module, of a package that looks its names up when asked
            if home.endswith("__init__.py") and _file(found) is None and "def __getattr__" in (ROOT / home).read_text():
                todo += [f"{package}.{file.stem}" for file in (ROOT / home).parent.glob("*.py")]
    return frozenset(seen)


def _file(module: str) -> str | None:
    base = ROOT / module.replace(".", "/")
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if module.split(".")[0] in PACKAGES and path.is_file():
            return path.relative_to(ROOT).as_posix()
    return None


def imports(path: Path, module: str) -> Iterator[str]:
    """Dotted names that a source file imports (of `from a import b` both a and a.b), type checking apart."""
    tree = ast.parse(path.read_text())
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unused = {id(inner) for node in checks for body in node.body for inner in ast.walk(body)}
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) + 1 - node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
