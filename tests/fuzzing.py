"""What fuzzers draw: documents that are nearly right, real ones with changes of their structure or their bytes.

Bounded where nothing is said, so that the tests of every day take seconds; FEWSTEP_FUZZ_EXAMPLES asks for a long
search, which draws anew each time.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fewstep.util.plain_data import to_yaml

EXAMPLES = int(os.environ.get("FEWSTEP_FUZZ_EXAMPLES", 0))
TIMEOUT = pytest.mark.timeout(600 + 20 * EXAMPLES)


def bounded(examples: int = 60) -> settings:
    """Settings of a fuzzer that draws so many examples in the tests of every day."""
    return settings(max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, database=None, deadline=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


ODD_TEXTS = ["", " ", "x", "null", "true", "1", "1e3", "nan", "\0", "\ud800", "\ufeff", "ü", "e\u0301", "\u2028", "\n",
             "a\tb", "x" * 300, "x" * 5000, ".", "..", "../../x", "/", "/etc/passwd", "~", "~nobody/x", "data/raw",
             "data/shards", "a/b.yaml", "\0.yaml", "x" * 300 + ".yaml", "file:///x", "2020-01-01", "2020-13-45T99:99Z",
             "<<", "*a", "&a", "${given.recipe}", "[/red]", "[bold", "%s", "{0}", "0" * 64, "f" * 32 + ".dir",
             "__class__", "_class_name", "-1", "1_000", "0x1f", "running", "finished"]  # fmt: skip
ODD_NUMBERS = [0, 1, -1, 2, 3, 7, 16, 0.5, -0.0, 1.5, 1e-300, 1e300, 2**31, 2**63 - 1, 2**63, 10**30, 10**400,
               float("nan"), float("inf"), float("-inf")]  # fmt: skip
ODD: st.SearchStrategy = st.one_of(
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"a": 1}, {"": None}]), st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS), st.integers(), st.floats(), st.text(max_size=6), 
    st.sampled_from([70, 200, 900]).map(_nested),
)  # fmt: skip


DEEPEST = 100


def _places(data: Any) -> list[tuple]:
    """The paths of all values, those of what is nested deeper than DEEPEST left out."""
    found, left = [], [((), data)]
    while left:
        path, value = left.pop()
        found.append(path)
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if len(path) < DEEPEST:
            left += [((*path, name), one) for name, one in inner]
    return found


def _at(data: Any, path: tuple) -> Any:
    for part in path:
        data = data[part]
    return data


@st.composite
def _one_change(draw, data: Any) -> Any:
    """`data` with one change of its structure: a value replaced, moved, left out, renamed, added, wrapped, altered."""
    place = draw(st.sampled_from(_places(data)))
    if not place:
        return draw(ODD) if draw(st.integers(0, 9)) == 0 else data
    data = copy.deepcopy(data)
    parent, name = _at(data, place[:-1]), place[-1]
    kind = draw(st.sampled_from(["odd", "odd", "slight", "slight", "drop", "rename", "add", "wrap", "move", "text"]))
    value = parent[name]
    if kind == "odd":
        parent[name] = draw(ODD)
    elif kind == "slight":
        parent[name] = draw(_slight(value))
    elif kind == "drop":
        del parent[name]
    elif kind == "rename" and isinstance(parent, dict):
        names = [f"{name}x", str(name)[:-1], str(name).upper(), f" {name}"]
        parent[draw(st.sampled_from(names) | st.sampled_from(ODD_TEXTS))] = parent.pop(name)
    elif kind == "add" and isinstance(value, (dict, list)):
        if isinstance(value, dict):
            value[draw(st.sampled_from(ODD_TEXTS))] = draw(ODD)
        else:
            value.insert(draw(st.integers(0, len(value))), draw(ODD))
    elif kind == "wrap":
        parent[name] = draw(st.sampled_from([[value], {"a": value}, [value, value]]))
    elif kind == "move":
        parent[name] = copy.deepcopy(_at(data, draw(st.sampled_from(_places(data)))))
    elif kind == "text":
        parent[name] = json.dumps(value)
    return data


def _slight(value: Any) -> st.SearchStrategy:
    if isinstance(value, bool) or value is None:
        return st.sampled_from([not value, str(value), int(bool(value))])
    if isinstance(value, (int, float)):
        near = [value + 1, value - 1, -value, value * 2, str(value), bool(value)]
        return st.sampled_from([*near, value / 2, float(value)] if abs(value) < 1e300 else near)
    if isinstance(value, str):
        return st.sampled_from([value[:-1], value + "x", value[1:] + value[:1], value.upper(), value + "\n", value * 2])
    if isinstance(value, list):
        return st.sampled_from([value[::-1], value + value, value[:-1], value[1:]])
    return st.sampled_from([{}, list(value), [list(pair) for pair in value.items()], None])


@st.composite
def changed(draw, *documents: Any) -> Any:
    """One of the documents with no to four changes of its structure. It may hold what no JSON or YAML text can."""
    data = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(0, 4))):
        if max(map(len, _places(data))) == DEEPEST:     # copying what is nested deeper is beyond Python's own stack
            break
        data = draw(_one_change(data))
    return data


SNIPPETS = [b"<<<<<<< HEAD\n", b"=======\n", b">>>>>>> theirs\n", b"\t", b"\0", b"\r\n", b"\r", b"\n",
            b"\xef\xbb\xbf", b"\xff\xfe", b"&a ", b"*a", b"<<: *a\n", b"&a [*a]", b"{", b"}", b"[", b"]",
            b"[" * 300, b"{a: " * 300, b'"', b"'", b":", b": ", b"- ", b"#", b" #", b",", b"---\n", b"...\n",
            b"%YAML 1.1\n---\n", b"!!binary ", b"!!set ", b"!!timestamp ", b"!!int ", b"!!python/object:os.system ",
            b"!x ", b"| \n", b">\n", b"? ", b"NaN", b"Infinity", b"-", b"9" * 400, b"9" * 5000, b"0x" + b"f" * 400,
            b"1e999", b".inf", b"null", b"true", b"~", b"2020-02-31", b"\\ud800", b"\\u0000", b"\xc3",
            b"\xed\xa0\x80", b"\x85", b"\xe2\x80\xa8", b"\x1b[31m", b"=", b"0", b"1"]  # fmt: skip
ENCODINGS = ["utf-16", "utf-8-sig", "utf-32", "utf-16-le", "utf-7"]


@st.composite
def damaged(draw, text: bytes) -> bytes:
    """`text` cut short, or with bytes altered, left out, doubled, put in, or in another encoding."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(text)
        first = draw(st.integers(0, size))
        last = draw(st.integers(first, min(size, first + 40)))
        kind = draw(st.sampled_from(["cut", "alter", "leave out", "double", "put in", "put in", "lines", "encode"]))
        if kind == "cut":
            text = text[:first]
        elif kind == "alter":
            text = text[:first] + bytes([draw(st.integers(0, 255))]) + text[first + 1:]
        elif kind == "leave out":
            text = text[:first] + text[last:]
        elif kind == "double":
            text = text[:last] + text[first:]
        elif kind == "put in":
            text = text[:first] + draw(st.sampled_from(SNIPPETS) | st.binary(max_size=4)) + text[first:]
        elif kind == "lines":
            lines = text.splitlines(keepends=True)
            if lines:
                number = draw(st.integers(0, len(lines) - 1))
                other = draw(st.sampled_from([lines[number], b"", b"  " + lines[number], *lines]))
                lines[number] = lines[number] + other if draw(st.booleans()) else other
            text = b"".join(lines)
        elif draw(st.integers(0, 3)) == 0:
            try:
                text = text.decode().encode(draw(st.sampled_from(ENCODINGS)))
            except UnicodeDecodeError:
                continue
    return text


@st.composite
def texts(draw, *documents: Any, originals: tuple[bytes, ...] = (), yaml: bool = False) -> tuple[bytes, Any]:
    """(text, data): a document that was changed in its structure, written out; or `originals`, or such a text, damaged.

    `data`: what the text says; None where only reading it would tell.
    """
    if originals and draw(st.booleans()):
        return draw(damaged(draw(st.sampled_from(originals)))), None
    data = draw(changed(*documents))
    text = json.dumps(data, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    text = text.encode(errors="surrogatepass")
    if yaml and draw(st.booleans()):
        try:
            text = to_yaml(data).encode()
        except Exception:   # what ruamel does not write
            return text, None
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(text)), None
    return text, data


__all__ = ["EXAMPLES", "ODD", "TIMEOUT", "ODD_TEXTS", "bounded", "changed", "damaged", "texts"]
