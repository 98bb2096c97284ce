"""Which code decides a result, read from the source: the import closure of modules, and a digest of its statements.

The digest is taken of syntax trees without docstrings, comments, annotations, layout, and imports that nothing uses, so
that an edit of these changes no digest. Nothing is imported or executed for it. No torch here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.util.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
VERSION = 1
"""Of the rules by which statements are compared; part of every digest."""
APART = ("fewstep/__init__.py", "fewstep/util/config.py", "fewstep/util/errors.py", "fewstep/util/source_code.py")
"""Files of fewstep that decide no byte: typed settings (their values enter keys), errors, and this one."""
LAZY_NAMES = "_HOMES"
"""A package that imports a name when it is asked for lists `{name: module}` under this name in its `__init__`."""


@dataclass(frozen=True)
class Code:
    """Files by path below the root, with the SHA-256 of the statements of each."""

    files: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the paths and statements of all files."""
        return hashlib.sha256(json.dumps([VERSION, sorted(self.files.items())]).encode()).hexdigest()


class Parsed(NamedTuple):
    """What counts of one file: SHA-256 of its statements; dotted names that it imports; its lazy names."""

    statements: str
    imports: tuple[str, ...]
    lazy: dict[str, str]


Parse = Callable[[Path, str], Parsed]


class SourceTree:
    """The Python files below `root`; each is read once.

    Args:
        root: folder that holds the packages.
        parse: reads one file, given its path and dotted name; a caller may bring one that remembers.
    """

    def __init__(self, root: Path = ROOT, parse: Parse | None = None):
        self.root = root
        self.parse = parse or parse_file
        self._root = f"{root}/"
        self._parsed: dict[str, Parsed] = {}
        self._paths: dict[str, str | None] = {}
        self._loads_of: dict[str, list[str]] = {}

    def code(self, modules: Iterable[str], packages: tuple[str, ...] = ("fewstep",),
             apart: tuple[str, ...] = ()) -> Code:  # fmt: skip
        """The code that importing and using `modules` may run: their closure (see `closure`) with digests."""
        return Code({path: self.parsed(path).statements for path in sorted(self.closure(modules, packages, apart))})

    def closure(self, modules: Iterable[str], packages: tuple[str, ...] = ("fewstep",),
                apart: tuple[str, ...] = ()) -> frozenset[str]:  # fmt: skip
        """Paths, below the root, of the files of `packages` that importing and using `modules` may load.

        Imports within functions count, imports for type checking do not. Modules found by name at run time do not
        count: who loads them names them. Paths that begin with one of `apart` are left out, with what only they import.
        """
        todo, seen = [path for module in modules for path in self._loaded(module)], set()
        while todo:
            path = todo.pop()
            if path in seen or path.split("/")[0] not in packages or path.startswith(apart):
                continue
            seen.add(path)
            todo += self._loads(path)
        return frozenset(seen)

    def path(self, module: str) -> str | None:
        """Path below the root of the file of `module`; None where there is no such module."""
        if module not in self._paths:
            base = module.replace(".", "/")
            files = (path for path in (f"{base}/__init__.py", f"{base}.py") if os.path.isfile(self._root + path))
            self._paths[module] = next(files, None)
        return self._paths[module]

    def parsed(self, path: str) -> Parsed:
        """What counts of the file at `path` below the root."""
        if path not in self._parsed:
            self._parsed[path] = self.parse(self.root / path, module_name(path))
        return self._parsed[path]

    def _loads(self, path: str) -> list[str]:
        """Paths of the files below the root that importing and using the file at `path` loads by itself."""
        if path not in self._loads_of:
            names = [module_name(path), *self.parsed(path).imports]
            self._loads_of[path] = [loaded for name in names for loaded in self._loaded(name)]
        return self._loads_of[path]

    def _loaded(self, name: str) -> Iterator[str]:
        """Paths of the packages and the module that importing a dotted name loads, lazily found names among them."""
        parts = name.split(".")
        if not os.path.isdir(self._root + parts[0]):
            return
        for count in range(1, len(parts) + 1):
            path = self.path(".".join(parts[:count]))
            if path is not None:
                yield path
        package = ".".join(parts[:-1])
        home = self.path(package) if package and self.path(name) is None else None
        lazy = self.parsed(home).lazy.get(parts[-1]) if home and home.endswith("__init__.py") else None
        if lazy is not None:
            yield from self._loaded(lazy if self.path(lazy) else f"{package}.{lazy}")


def module_name(path: str) -> str:
    """Dotted name of the module at a path below the root."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parse_file(path: Path, module: str) -> Parsed:
    """Parse a Python file. Raises OSError, and SettingsError naming the line of a syntax error."""
    is_package = path.name == "__init__.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise SettingsError(f"{path}:{error.lineno}: {error.msg}", hint="correct the file, then try again") from None
    found = tuple(dict.fromkeys(imports(tree, module, is_package)))
    lazy = _lazy_names(tree)
    text = statements(tree, module, is_package)
    return Parsed(hashlib.sha256(text.encode()).hexdigest(), found, lazy)


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[str]:
    """Dotted names that a syntax tree imports (of `from a import b` both a and a.b), not those for type checking."""
    skipped = {id(node) for check in _type_checks(tree) for part in check.body for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module, is_package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def statements(tree: ast.Module, module: str, is_package: bool = False) -> str:
    """What a module says to do, as text; equal for trees that differ in what only describes. Changes `tree`."""
    tree = ast.fix_missing_locations(_Described().visit(tree))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bound: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        for name, origin in _bindings(node, module, is_package):
            bound.setdefault(name, set()).add(origin)
    moving = {name for name, origins in bound.items() if len(origins) == 1 and "*" not in name}
    kept = sorted((name, *bound[name]) for name in moving if name in used or is_package)
    return json.dumps([kept, _plain(_WithoutImports(moving).visit(tree))])


def _bindings(node: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """Names that a statement binds, with what they come from; of a definition or an assignment, with nothing."""
    if isinstance(node, ast.Import):
        yield from ((alias.asname or alias.name.split(".")[0], alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, module, is_package)
        yield from ((alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, ""
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, ""


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists; equal under every version of Python whose grammar the code keeps to.

    Empty fields are left out: later versions add some.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *([name, _plain(value)] for name, value in fields if name != "kind")]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return f"{type(node).__name__} {node!r}"


def _base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    package = module.split(".") if is_package else module.split(".")[:-1]
    above = package[: len(package) + 1 - node.level] if node.level else []
    return ".".join(above + ([node.module] if node.module else []))


def _type_checks(tree: ast.AST) -> list[ast.If]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_check(node)]


def _is_type_check(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _lazy_names(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == LAZY_NAMES for target in targets):
            return ast.literal_eval(node.value)
    return {}


class _Described(ast.NodeTransformer):
    """Removes what only describes: docstrings, annotations, blocks for type checking."""

    _in_class = False       # directly: not in a method

    def visit_JoinedStr(self, node: ast.JoinedStr):
        self.generic_visit(node)    # Python 3.12 ends a nested format with an empty text
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return node

    def visit_Expr(self, node: ast.Expr):
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_If(self, node: ast.If):
        self.generic_visit(node)
        if _is_type_check(node):
            return node.orelse or None
        return self._filled(node)

    def visit_arg(self, node: ast.arg):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign):
        self.generic_visit(node)
        if node.value is not None and not self._in_class:
            return ast.Assign(targets=[node.target], value=node.value)
        kind = ast.unparse(node.annotation).split("[")[0].rpartition(".")[2]
        node.annotation = ast.Constant(kind if kind in ("ClassVar", "InitVar") else "field")
        return node

    def visit_FunctionDef(self, node):
        outer, self._in_class = self._in_class, False
        node.returns = None
        self.generic_visit(node)
        self._in_class = outer
        return self._filled(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef):
        outer, self._in_class = self._in_class, True
        self.generic_visit(node)
        self._in_class = outer
        return self._filled(node)

    @staticmethod
    def _filled(node):
        node.body = node.body or [ast.Pass()]
        return node


class _WithoutImports(ast.NodeTransformer):
    """Removes the imports of `names`, which are told apart: where in a file such an import stands changes nothing.

    An import of a name that the file binds in several ways stays in its place.
    """

    def __init__(self, names: set[str]):
        self.names = names

    def visit_Import(self, node: ast.Import | ast.ImportFrom):
        node.names = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) not in self.names]
        return node if node.names else None

    visit_ImportFrom = visit_Import

    def generic_visit(self, node):
        super().generic_visit(node)
        if isinstance(getattr(node, "body", None), list) and not node.body and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]
        return node
