"""JSON and YAML as plain data: null, booleans, numbers, text, lists, and mappings with text as keys. No torch here.

The parsers take more: keys that stand there twice, of which one wins; text that no file can hold; structures without
end; dates, sets and numbers that cannot be written out again. What would be lost, or would break whoever reads it
later, is refused here, where the text is read.
"""

from __future__ import annotations

import functools
import io
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from fewstep.util.errors import printable

if TYPE_CHECKING:
    from ruamel.yaml import YAML

DEEPEST = 64        # levels of lists and mappings
_MOST = 100_000     # values in a YAML text: aliases of aliases double with every line
_BITS = 1000        # of a whole number: a float takes up to 1023


class NotPlain(ValueError):
    """A text is no JSON or YAML, or holds something else than plain data; the message says what, and where."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.place: list[str | int] = []    # keys and numbers that lead to the value, the innermost first

    def __str__(self) -> str:
        names = [str(part) for part in reversed(self.place)]
        where = ".".join(names if len(names) < 6 else [*names[:3], "…"])
        return printable(f"{where}: {self.args[0]}" if where else self.args[0])


def from_json(text: bytes | str) -> Any:
    """The plain data in a JSON text in UTF-8, -16 or -32. NaN and infinity are numbers, as json writes them.

    Raises NotPlain.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except NotPlain:
        raise
    except RecursionError:
        raise NotPlain("lists and objects are nested too deeply") from None
    except ValueError as error:
        raise NotPlain(" ".join(str(error).split())) from None
    return checked(data, sys.maxsize)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise NotPlain(f"the key {ascii(twice)[:60]} stands there twice")
    return found


def from_yaml(text: bytes | str) -> Any:
    """The plain data in a YAML 1.2 text, where an alias has become a copy. Raises NotPlain."""
    return checked(_parsed(text), _MOST)


@functools.lru_cache(maxsize=32)    # a run reads its few files again and again: 10 ms for params.yaml
def _parsed(text: bytes | str) -> Any:
    from ruamel.yaml import YAML  # commands that read JSON alone do not load it

    return loaded(YAML(typ="safe", pure=True), text)


def to_yaml(data: Any, width: int = 120) -> str:
    """`data` as a YAML 1.2 text that `from_yaml` reads as the same data; keys stay in their order."""
    from ruamel.yaml import YAML  # as above

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, width
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def loaded(yaml: YAML, text: bytes | str) -> Any:
    """What ruamel's loader makes of a text. Raises NotPlain, whatever it raises.

    Its constructors raise nearly every kind of exception for values such as the 31st of February.
    """
    from ruamel.yaml.error import YAMLError  # commands that read JSON alone do not load it

    try:
        return yaml.load(text)
    except RecursionError:
        raise NotPlain("lists and mappings are nested too deeply") from None
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise NotPlain(said if isinstance(error, (YAMLError, UnicodeDecodeError))
                       else f"a value cannot be read: {said or type(error).__name__}") from error


def checked(data: Any, most: int) -> Any:
    """A copy of `data` in which nothing is shared. Raises NotPlain where it is no plain data or has over `most` values.
    """
    left = most

    def copied(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise NotPlain(f"over {most} values, aliases counted each time")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            if value.bit_length() > _BITS:
                raise NotPlain(f"a whole number of {value.bit_length()} bits")
            return int(value)
        if isinstance(value, float):
            return float(value)
        if depth > DEEPEST:
            raise NotPlain(f"nested deeper than {DEEPEST} levels")
        if isinstance(value, list):
            return [placed(number, item, depth + 1) for number, item in enumerate(value)]
        if isinstance(value, dict):
            return {_key(name): placed(name, item, depth + 1) for name, item in value.items()}
        raise NotPlain(f"a value of type {type(value).__name__}; text that looks so belongs in quotes")

    def placed(name: str | int, value: Any, depth: int) -> Any:
        try:
            return copied(value, depth)
        except NotPlain as error:
            error.place.append(name)
            raise

    return copied(data, 1)


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise NotPlain(f"the key {ascii(name)[:40]} is no text; put it in quotes")
    return _text(name)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotPlain(f"half a character in {ascii(value)[:60]}") from None
    return str(value)
