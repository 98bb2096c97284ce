"""Which files a module may load, and what of an edit changes their digest."""

import ast
import hashlib

import pytest

from fewstep.util.errors import SettingsError
from fewstep.util.source_code import Code, SourceTree, parse_file, statements

PLAIN = "import math\n\nSCALE = 2\n\n\ndef f(x=SCALE):\n    return math.sqrt(x)\n"
SAME = {
    "docstrings": '"""About."""\nimport math\n\nSCALE = 2\n"""Of f."""\n\n'
                  'def f(x=SCALE):\n    """Says."""\n    return math.sqrt(x)\n',
    "comments and layout": "import math\nSCALE = 2  # two\n# about f\ndef f(x = SCALE): return (math.sqrt(x))\n",
    "annotations": "import math\n\nSCALE: int = 2\n\n\ndef f(x: float = SCALE) -> float:\n    return math.sqrt(x)\n",
    "imports for annotations": "from __future__ import annotations\nimport math\nfrom typing import Any\n\n"
                               "SCALE = 2\n\n\ndef f(x: Any = SCALE):\n    return math.sqrt(x)\n",
    "blocks for type checking": "import math\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                                "    import torch\n\nSCALE = 2\n\n\ndef f(x=SCALE):\n    return math.sqrt(x)\n",
    "where imports stand": "SCALE = 2\n\n\ndef f(x=SCALE):\n    import math\n\n    return math.sqrt(x)\n",
}  # fmt: skip
OTHER = {
    "a constant": PLAIN.replace("2", "3"),
    "a default": PLAIN.replace("x=SCALE", "x=2"),
    "a statement": PLAIN + "    print(x)\n",
    "what a name stands for": PLAIN.replace("import math", "import cmath as math"),
    "a string": PLAIN.replace("SCALE = 2", "SCALE = '2'"),
    "an operator": PLAIN.replace("math.sqrt(x)", "-math.sqrt(x)"),
}


def told(text: str) -> str:
    return statements(ast.parse(text), "m")


@pytest.mark.parametrize("edit", SAME)
def test_what_only_describes_changes_no_digest(edit):
    assert told(SAME[edit]) == told(PLAIN)


@pytest.mark.parametrize("edit", OTHER)
def test_what_code_does_changes_its_digest(edit):
    assert told(OTHER[edit]) != told(PLAIN)


def test_a_field_of_a_class_counts_by_its_name():
    one, other = "class A:\n    x: int\n", "class A:\n    y: int\n"
    assert told(one) == told("class A:\n    x: float\n") != told(other)
    assert told("class A:\n    x: int = 3\n") != told("class A:\n    x = 3\n"), "an annotation makes a field"
    method = "class A:\n    def f(self):\n        x{} = 3\n        return x\n"
    assert told(method.format(": int")) == told(method.format(""))


def test_the_digest_is_the_same_under_every_version_of_python():
    """Written down once: an upgrade of Python alone makes nothing stale."""
    text = ('import math\n\n\nclass A:\n    x: int = 3\n\n    def f(self, *a, b=1, **c):\n'
            '        return f"{self.x!r:>{b}} {a}", [i for i in a if i], lambda y: y ** 2\n')
    assert hashlib.sha256(told(text).encode()).hexdigest()[:16] == "e820cc87d40bcdc0"


@pytest.mark.parametrize(("one", "other"), [
    ("if a:\n    from m import f\nelse:\n    from n import f\nf()\n",
     "if a:\n    from n import f\nelse:\n    from m import f\nf()\n"),
    ("from m import f\nfrom n import f\nf()\n", "from n import f\nfrom m import f\nf()\n"),
    ("from m import f\ndef f(): pass\nf()\n", "def f(): pass\nfrom m import f\nf()\n"),
    ("class A:\n    x: ClassVar[int] = 3\n", "class A:\n    x: int = 3\n"),
    ("if not TYPE_CHECKING:\n    f(1)\n", "if not TYPE_CHECKING:\n    f(2)\n"),
    ("from m import *\n", "from n import *\n"),
])  # fmt: skip
def test_what_python_would_do_otherwise_has_another_digest(one, other):
    assert told(one) != told(other)


@pytest.fixture
def tree(tmp_path) -> SourceTree:
    files = {
        "p/__init__.py": "",
        "p/a.py": "from p import b\nfrom p.lazy import name\n\n\n"
                  "def f():\n    from q.far import g\n    return b, name, g\n",
        "p/b.py": "import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import unused\n",
        "p/unused.py": "1 / 0\n",
        "p/lazy/__init__.py": '_HOMES = {"name": "p.lazy.home", "other": "p.lazy.elsewhere"}\n',
        "p/lazy/home.py": "from ..c import c\nname = c\n",
        "p/lazy/elsewhere.py": "",
        "p/c.py": "c = 1\n",
        "q/__init__.py": "",
        "q/far.py": "from p import c\n",
        "q/apart/__init__.py": "import p.unused\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SourceTree(tmp_path)


def test_the_closure_follows_imports_of_functions_of_packages_and_of_lazy_names(tree):
    near = {"p/__init__.py", "p/a.py", "p/b.py", "p/lazy/__init__.py", "p/lazy/home.py", "p/c.py"}
    assert tree.closure(["p.a"], ("p",)) == near
    assert tree.closure(["p.a"], ("p", "q")) == near | {"q/__init__.py", "q/far.py"}
    assert tree.closure(["p.a"], ("p", "q"), apart=("p/lazy/home", "q/")) == near - {"p/lazy/home.py", "p/c.py"}
    assert "p/unused.py" in tree.closure(["q.apart"], ("p", "q"))


def test_nothing_is_executed_for_it(tree):
    assert tree.path("p.unused") == "p/unused.py" and tree.path("p.gone") is None
    assert len(tree.code(["p.unused"], ("p",)).files) == 2


def test_the_digest_is_of_paths_and_statements(tree, tmp_path):
    before = tree.code(["p.a"], ("p",))
    (tmp_path / "p" / "c.py").write_text("# one\nc = 1\n")
    (tmp_path / "p" / "unused.py").write_text("2\n")
    assert SourceTree(tmp_path).code(["p.a"], ("p",)) == before
    (tmp_path / "p" / "c.py").write_text("c = 2\n")
    after = SourceTree(tmp_path).code(["p.a"], ("p",))
    assert after.digest != before.digest
    assert {path for path in after.files if after.files[path] != before.files[path]} == {"p/c.py"}
    assert Code({"p/x.py": "1"}).digest != Code({"p/y.py": "1"}).digest


def test_relative_imports_and_damage(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("from .a import b\nfrom . import c\n")
    assert set(parse_file(path, "p.m").imports) >= {"p.a", "p.a.b", "p", "p.c"}
    path.write_text("def f(:\n")
    with pytest.raises(SettingsError, match=r"m.py:1: invalid syntax"):
        parse_file(path, "p.m")
