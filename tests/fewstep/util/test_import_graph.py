"""Modules and rooms import one way: no circle at module level or through imports within functions."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from fewstep.util.source_code import LAZY_NAMES, imports

ROOT = Path(__file__).parents[3]
Graph = dict[str, set[str]]


def modules(root: Path, package: str) -> dict[str, Path]:
    """The modules below a folder of `root` by their dotted names."""
    files = [path for path in (root / package).rglob("*.py") if "__pycache__" not in path.parts]
    names = [path.relative_to(root).with_suffix("").parts for path in files]
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file
            for parts, file in zip(names, files, strict=True)}  # fmt: skip


def import_graph(root: Path, package: str) -> Graph:
    """Which modules of `package` importing and using each of its modules may load, type checking apart."""
    known = modules(root, package)
    return {name: set(imported(name, file, known)) - {name} for name, file in known.items()}


def imported(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that one module imports; an import also runs the packages around its target, which do not hold `name`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set(imports(tree, name, file.name == "__init__.py"))
    for target in names:
        package, _, attribute = target.rpartition(".")
        if target in known:
            submodules = {found for found in names if found.rpartition(".")[0] == target}
            if f"{name}.".startswith(f"{target}.") and submodules and submodules <= known.keys():
                continue  # `from package import module` within the package: the package is loaded already
            yield target
        elif package in known and (home := lazy_names(known[package]).get(attribute)) in known:
            yield home
        parts = target.split(".")
        around = {".".join(parts[:count]) for count in range(1, len(parts))}
        yield from (one for one in around & known.keys() if not f"{name}.".startswith(f"{one}."))


def lazy_names(file: Path) -> dict[str, str]:
    """Names that a package imports when they are asked for, with their modules."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == LAZY_NAMES:
            return ast.literal_eval(node.value)
    return {}


def circle(graph: Graph) -> list[str]:
    """The modules of a circle in the order of their imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.mark.parametrize(
    "package",
    ["fewstep", "tasks", "flows"],
)
def test_modules_import_in_no_circle(package):
    assert not (found := circle(import_graph(ROOT, package))), " imports ".join(found)


def test_rooms_of_fewstep_import_in_no_circle():
    """Neither do the folders, of which each answers one question."""
    rooms: Graph = {}
    for name, targets in import_graph(ROOT, "fewstep").items():
        room = ".".join(name.split(".")[:2])
        rooms.setdefault(room, set()).update({".".join(target.split(".")[:2]) for target in targets} - {room})
    assert not (found := circle(rooms)), " imports ".join(found)
    assert rooms["fewstep.diffusion"] == {"fewstep.util"}


SOURCES = {
    "plain": ({"a.py": "from p import b", "b.py": "from p import c", "c.py": ""}, []),
    "modules": ({"a.py": "from p import b", "b.py": "import p.c", "c.py": "from p.a import x"}, ["p.a", "p.b", "p.c"]),
    "functions": ({"a.py": "from p.b import x", "b.py": "def f():\n    from p.a import y"}, ["p.a", "p.b"]),
    "types": ({"a.py": "from p.b import x", "b.py": "if TYPE_CHECKING:\n    from p.a import y"}, []),
    "package": ({"s/__init__.py": "from p.s.a import x", "s/a.py": "from p.s import x"}, ["p.s", "p.s.a"]),
    "inner": ({"s/__init__.py": "from p.s.a import x", "s/a.py": "from p.s import b", "s/b.py": ""}, []),
    "around": ({"a.py": "from p.s.b import y", "s/__init__.py": "from p.s.c import z", "s/b.py": "",
                "s/c.py": "import p.a"}, ["p.a", "p.s", "p.s.c"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_a_circle_is_found_and_named(case, tmp_path):
    files, expected = SOURCES[case]
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = circle(import_graph(tmp_path, "p"))
    assert sorted(set(found)) == expected and found[:1] == found[-1:]
