"""Typed settings: an unknown key is an error that names it and the nearest known one. No torch here."""

from __future__ import annotations

import difflib
import reprlib
import types
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic

from fewstep.util.errors import SettingsError

Model = TypeVar("Model", bound="Strict")
_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "multiple of"))
_BRIEF = reprlib.Repr()     # of a value in a message; its length does not double with every alias
_BRIEF.maxlist = _BRIEF.maxdict = _BRIEF.maxtuple = 40
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = 200


def _moment(text: str) -> str:
    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise ValueError(f"expected a moment such as 2026-01-31T12:00:00Z, got {_shown(text)}")
    return text


Moment = Annotated[str, pydantic.AfterValidator(_moment)]
"""A moment with its time zone, ISO 8601."""


class Strict(pydantic.BaseModel):
    """Base of all settings: unknown keys refused, no silent conversion (`"5"` and `true` are no integers), frozen.

    A list is accepted where a tuple is declared, an integer where a float is declared; NaN and infinity are refused.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False,
                                       validate_default=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _lists_become_tuples(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: _tuples(value) if _takes_tuple(cls.model_fields.get(key)) else value
                for key, value in data.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def parse(model: type[Model], data: Any, source: str) -> Model:
    """Validate `data` (what a YAML or JSON file held) as `model`; `source` names the file in messages.

    Raises SettingsError, such as `params.yaml: trajectories.solvr: unknown key; did you mean 'solver'?`. With several
    errors the first is on the first line and the others follow, one per line.
    """
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise SettingsError(f"{source}: expected a mapping of keys to values, got {_shown(data)}")
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        items = error.errors(include_url=False)
        paths = [_locate(model, item["loc"])[0] for item in items]
        inner = [item for item, path in zip(items, paths, strict=True)
                 if not any(len(other) > len(path) and other[:len(path)] == path for other in paths)]
        problems = list(dict.fromkeys(_sentence(model, item) for item in inner))
        raise SettingsError(*(f"{source}: {problem}" for problem in problems)) from None


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """The known name most like `name`, or None when nothing is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return found[0] if found else None


def unknown(kind: str, name: str, known: list[str] | tuple[str, ...]) -> str:
    """`unknown recipe 'kdd'; did you mean 'kd'?`, or the list of what is known."""
    guess = nearest(name, known)
    tail = f"did you mean {guess!r}?" if guess else f"known: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {tail}"


def _sentence(model: type[pydantic.BaseModel], item: dict) -> str:
    path, annotation, metadata, keys = _locate(model, item["loc"])
    where = ".".join(map(_named, path))
    if item["type"] == "extra_forbidden":
        guess = nearest(path[-1], keys)
        tail = f"did you mean {guess!r}?" if guess else "known here: " + ", ".join(keys)
        return f"{where}: unknown key; {tail}"
    if item["type"] == "missing":
        return f"{where}: missing; expected {describe(annotation, metadata)}"
    if item["type"] in ("value_error", "assertion_error"):
        text = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{where}: {text}" if where else text
    if annotation is None:
        return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}, got {_shown(item['input'])}"
    return f"{where}: expected {describe(annotation, metadata)}, got {_shown(item['input'])}"


def _named(key: str) -> str:
    """A key in a message; one that is no word, or has no end, as a text in quotes."""
    return key if key.isprintable() and key.strip() and len(key) <= 60 else _shown(key)


def _locate(model: type, loc: tuple) -> tuple[list[str], Any, list, list[str]]:
    """Follow a pydantic location through the models; parts that only name a branch of a union are left out."""
    path: list[str] = []
    annotation: Any = model
    metadata: list = []
    keys: list[str] = []
    for part in loc:
        models = [kind for kind in _branches(annotation)
                  if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)]
        fields = {(field.alias or name): field for kind in models for name, field in kind.model_fields.items()}
        containers = [kind for kind in _branches(annotation) if get_origin(kind) in (list, tuple, dict)]
        if part in fields:
            keys = list(fields)
            annotation, metadata = fields[part].annotation, list(fields[part].metadata)
        elif isinstance(part, int) and containers:
            annotation, metadata = next((a for a in get_args(containers[0]) if a is not Ellipsis), None), []
        elif containers and get_origin(containers[0]) is dict:
            annotation, metadata = get_args(containers[0])[1], []
        elif part == loc[-1] and models and part not in [kind.__name__ for kind in models]:
            keys, annotation, metadata = list(fields), None, []
        else:
            continue
        path.append(str(part))
    return path, annotation, metadata, keys


def _branches(annotation: Any) -> list:
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for branch in get_args(annotation) for inner in _branches(branch)]
    return [annotation]


def _takes_tuple(field: pydantic.fields.FieldInfo | None) -> bool:
    return field is not None and any(kind is tuple or get_origin(kind) is tuple for kind in _branches(field.annotation))


def describe(annotation: Any, metadata: list | tuple = ()) -> str:
    """What a value must be, in words: `an integer ≥ 1`, `'local' or 'server'`, `a list of numbers`."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        flat = [bound for item in extra for bound in (getattr(item, "metadata", None) or [item])]
        return describe(inner, [*flat, *metadata])
    if get_origin(annotation) in (Union, types.UnionType):
        branches = sorted(get_args(annotation), key=lambda kind: kind is type(None))
        return " or ".join(dict.fromkeys(describe(kind, metadata) for kind in branches))
    if get_origin(annotation) is Literal:
        return " or ".join(value if isinstance(value, str) else str(value).lower() for value in get_args(annotation))
    if get_origin(annotation) in (list, tuple):
        inner = next((kind for kind in get_args(annotation) if kind is not Ellipsis), Any)
        return "a list" + _limits(metadata) + f", each {describe(inner)}"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null",
             dict: "a mapping", list: "a list", tuple: "a list"}
    name = names.get(annotation) or names.get(get_origin(annotation), "a section of keys")
    return name + (_limits(metadata) if annotation in (int, float, str) else "")


def _limits(metadata: list | tuple) -> str:
    parts = [f"{sign} {getattr(item, name):g}" for item in metadata for name, sign in _BOUNDS
             if getattr(item, name, None) is not None]
    parts += [f"at least {item.min_length} long" for item in metadata if getattr(item, "min_length", None)]
    parts += [f"at most {item.max_length} long" for item in metadata if getattr(item, "max_length", None)]
    parts += [f"like {item.pattern}" for item in metadata if isinstance(getattr(item, "pattern", None), str)]
    return " " + " and ".join(parts) if parts else ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = _BRIEF.repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "…"
