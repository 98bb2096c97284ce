"""JSON and YAML are read as plain data, or refused with the place and the reason; nothing is lost on the way."""

import math
from itertools import pairwise

import pytest

from fewstep.util.plain_data import NotPlain, from_json, from_yaml, to_yaml

LETTERS = "abcdefghijklmnopqrstu"
BOMB = "a: &a [1, 1]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairwise(LETTERS))
"""Two million values; with every line they double."""


@pytest.mark.parametrize(("text", "said"), [
    ("a: 1\na: 2", 'duplicate key "a"'), ("a: 2020-01-31", "a: a value of type date; text that looks so belongs in"),
    ("a: 2020-02-31", "a value cannot be read: day is out of range"), ("a: !!set {x}", "a: a value of type set"),
    ("a: !!int x", "a value cannot be read"), ("a: &a [*a]", "deeper than 64 levels"), ("[" * 3000, "too deeply"),
    ("a: [1, {b: 0x" + "f" * 300 + "}]", "a.1.b: a whole number of 1200 bits"), ("1: x", "the key 1 is no text"),
    ("a: " + "9" * 5000, "a value cannot be read"), ('a: "\\ud800"', "half a character"), (b"\xff", "invalid start"),
    ("a:\t1", "cannot start any token"), ("a: \0", "special characters"), ("--- 1\n--- 2", "a single document"),
    ("!!python/object:os.system x", "could not determine a constructor"), (BOMB, "over 100000 values"),
    ("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", "mapping values are not allowed here"),
])  # fmt: skip
def test_yaml_that_is_no_plain_data(text, said):
    with pytest.raises(NotPlain) as caught:
        from_yaml(text)
    assert said in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(("text", "said"), [
    ('{"a": 1, "a": 2}', "the key 'a' stands there twice"), ('{"a": "\\ud800"}', "a: half a character"),
    ("[" * 100_000, "nested too deeply"), ("[" * 70 + "]" * 70, "nested deeper than 64"), ("1" * 5000, "4300 digits"),
    ('{"a": 1', "Expecting ',' delimiter"), (b"\xff\xfe{", "can't decode"), ("", "Expecting value"),
])  # fmt: skip
def test_json_that_is_no_plain_data(text, said):
    with pytest.raises(NotPlain) as caught:
        from_json(text)
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_what_is_plain_is_read_as_it_stands():
    listed = {"b": [1, 2.5, None, True, "yes", 1000.0, 16, "ü"]}
    assert from_yaml("a: &x {b: [1, 2.5, null, true, yes, 1e3, 0x10, ü]}\nc: *x\nd: {<<: *x, e: 017}") == {
        "a": listed, "c": listed, "d": {**listed, "e": 17}}  # fmt: skip
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert from_yaml("a: ü".encode(encoding)) == {"a": "ü"} == from_json('{"a": "ü"}'.encode(encoding))
    assert math.isnan(from_json('{"a": NaN}')["a"])


def test_an_alias_is_a_copy_of_its_own():
    data = from_yaml("a: &x {b: 1}\nc: *x")
    data["a"]["b"] = 2
    assert data["c"] == {"b": 1}


def test_what_is_written_is_read_as_the_same():
    odd = {"on": "yes", "n": "1e3", "t": "2020-01-31", "e": "", "x": [1e-5, 1e300, True, None, {"deep": ["a: b", "#"]}],
           "long": "word " * 60, "ü": "null"}  # fmt: skip
    assert from_yaml(to_yaml(odd)) == odd and list(from_yaml(to_yaml(odd, 40))) == list(odd)
