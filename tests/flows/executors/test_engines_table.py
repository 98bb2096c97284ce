"""The engines' table of docs/scale.md: its tests are there, its cells in their places, its part alone is written."""

import re
from typing import get_args

from tests.flows.executors import engine_rows, engines_table
from tests.flows.executors.engine_rows import Cell
from tests.project import ROOT
from tests.scale_document import DOCUMENT, replaced


def test_every_test_of_the_table_is_there_and_every_engine_has_a_row():
    told = DOCUMENT.read_text().partition("\n# Engines\n")[2]
    named = re.findall(rf"^\d+\. `{re.escape(engines_table.COMMAND)} (.+?)::(.+?)`$", told, re.MULTILINE)
    assert named
    for file, test in named:
        text = (ROOT / file).read_text()
        assert f"def {test}(" in text and "verified(\"" in text, f"{file}::{test} is gone: make scale"
    engines = re.findall(r"^\| `(.+?)` \|", told, re.MULTILINE)
    assert engines == list(get_args(engine_rows.Engine))


def test_a_cell_has_the_numbers_of_its_tests():
    cells = [Cell(test="tests/b.py::two", engine="ray", what="cut link"),
             Cell(test="tests/a.py::one[x]", engine="ray", what="same bytes"),
             Cell(test="tests/a.py::one[y]", engine="ray", what="same bytes"),
             Cell(test="tests/b.py::two", engine="ray", what="same bytes")]  # fmt: skip
    told = engines_table.document(cells)
    assert "| `ray` | 1, 2 |  | 2 |  |  |  |\n" in told and "| `local` |  |  | – (a) |  |  | – (a) |\n" in told
    one, two = (f"`{engines_table.COMMAND} tests/{test}`" for test in ("a.py::one", "b.py::two"))
    assert f"\n\n1. {one}\n2. {two}\n\n– (a): threads and processes of the run's machine" in told


def test_a_part_of_the_page_is_replaced_and_the_others_stay():
    page = "# One\n\nfirst\n\n## Below\n\n# Two\n\nsecond\n"
    assert replaced(page, "# Two", "# Two\n\nnew\n") == "# One\n\nfirst\n\n## Below\n\n# Two\n\nnew\n"
    assert replaced(page, "# One", "# One\n") == "# One\n\n# Two\n\nsecond\n"
    assert replaced("", "# One", "# One\n\nfirst\n") == "# One\n\nfirst\n"
    assert replaced(page, "# Three", "# Three\n\nlast\n") == page + "\n# Three\n\nlast\n"
