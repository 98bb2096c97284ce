"""Settings models: what is accepted, and that every refusal names the key, what was expected and what came."""

from __future__ import annotations

import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fewstep.util.config import Strict, parse, unknown
from fewstep.util.errors import Busy, CorruptData, DataDiffers, FewstepError, NonFinite, NotAvailable, SettingsError


class Inner(Strict):
    solver: Literal["ddim", "heun"] = "ddim"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5


class Outer(Strict):
    count: Annotated[int, Field(ge=1)] = 3
    flag: bool = False
    sizes: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2)
    keep: Literal["all"] | tuple[int, ...] | None = None
    inner: Inner = Inner()
    parts: list[Inner] = []
    table: dict[str, int] = {}


def test_defaults_and_the_few_conversions_that_lose_nothing():
    assert parse(Outer, None, "f") == Outer()
    got = parse(Outer, {"sizes": [4], "keep": [1], "inner": {"rate": 1}}, "f")
    assert got.sizes == (4,) and got.keep == (1,) and got.inner.rate == 1.0 and isinstance(got.inner.rate, float)


@pytest.mark.parametrize(("data", "message"), [
    ({"inner": {"solvr": 1}}, "f.yaml: inner.solvr: unknown key; did you mean 'solver'?"),
    ({"innr": {}}, "f.yaml: innr: unknown key; did you mean 'inner'?"),
    ({"zzz": 1}, "f.yaml: zzz: unknown key; known here: count, flag, sizes, keep, inner, parts, table"),
    ({"parts": [{}, {"rte": 1}]}, "f.yaml: parts.1.rte: unknown key; did you mean 'rate'?"),
    ({"count": "x"}, "f.yaml: count: expected an integer ≥ 1, got 'x'"),
    ({"count": "5"}, "f.yaml: count: expected an integer ≥ 1, got '5'"),
    ({"count": True}, "f.yaml: count: expected an integer ≥ 1, got true"),
    ({"count": 2.0}, "f.yaml: count: expected an integer ≥ 1, got 2.0"),
    ({"count": 0}, "f.yaml: count: expected an integer ≥ 1, got 0"),
    ({"count": None}, "f.yaml: count: expected an integer ≥ 1, got null"),
    ({"flag": 1}, "f.yaml: flag: expected true or false, got 1"),
    ({"inner": {"rate": 2}}, "f.yaml: inner.rate: expected a number > 0 and ≤ 1, got 2"),
    ({"inner": {"rate": float("nan")}}, "f.yaml: inner.rate: expected a number > 0 and ≤ 1, got nan"),
    ({"inner": {"solver": "huen"}}, "f.yaml: inner.solver: expected ddim or heun, got 'huen'"),
    ({"inner": 3}, "f.yaml: inner: expected a section of keys, got 3"),
    ({"sizes": []}, "f.yaml: sizes: expected a list at least 1 long, each an integer, got []"),
    ({"sizes": [1, "a"]}, "f.yaml: sizes.1: expected an integer, got 'a'"),
    ({"keep": "most"}, "f.yaml: keep: expected all or a list, each an integer or null, got 'most'"),
    ({"table": {"a": "b"}}, "f.yaml: table.a: expected an integer, got 'b'"),
    ([1], "f.yaml: expected a mapping of keys to values, got [1]"),
])
def test_refusals_name_key_expectation_and_value(data, message):
    with pytest.raises(SettingsError) as caught:
        parse(Outer, data, "f.yaml")
    assert str(caught.value) == message


def test_all_problems_are_listed_one_per_line():
    with pytest.raises(SettingsError) as caught:
        parse(Outer, {"count": 0, "flag": 3}, "f")
    assert len(str(caught.value).splitlines()) == 2


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Outer().count = 4


def test_unknown_names_the_nearest_or_all():
    assert unknown("recipe", "kdd", ["kd", "reflow"]) == "unknown recipe 'kdd'; did you mean 'kd'?"
    assert unknown("recipe", "zzzz", ["reflow", "kd"]) == "unknown recipe 'zzzz'; known: kd, reflow"


def test_exit_codes_and_that_errors_survive_a_process_border():
    assert [kind.exit_code for kind in (FewstepError, SettingsError, DataDiffers, CorruptData, NotAvailable, Busy)] \
        == [1, 2, 3, 3, 4, 5]
    error = pickle.loads(pickle.dumps(NonFinite("NaN", step=3, term="mmd", role="student", hint="lower lr")))
    assert (str(error), error.step, error.term, error.role, error.hint) == ("NaN", 3, "mmd", "student", "lower lr")
