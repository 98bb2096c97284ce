"""The reference of settings, from the pydantic models: params.yaml, and what a recipe may say."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fewstep.objectives.registry import term_names, term_settings
from fewstep.objectives.term_settings import TermSettings
from fewstep.recipes.recipe import Recipe
from tasks.config.schema import Settings

_OF_PARAMS = """# Settings: params.yaml

Every key, with its type and default. An unknown key is an error that names the nearest known one; `--set a.b=value`
changes one on the command line.
"""
_OF_RECIPES = """# Settings: recipes

What a recipe's YAML file may say. `fewstep recipes show NAME` prints one with all its defaults;
[Recipes](../how-to/recipes.md) shows how to write one.
"""
_REMARK = re.compile(r"^    (\w+): [^\n#]*?\s# ?(.*(?:\n {9,}# ?.*)*)", re.MULTILINE)
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def params_page() -> str:
    """The page of params.yaml, in Markdown."""
    lines = [_OF_PARAMS]
    return "\n".join([*lines, *_model(Settings, "")])


def recipe_page() -> str:
    """The page of a recipe's keys and of the settings of every term."""
    lines = [_OF_RECIPES]
    lines += _model(Recipe, "")
    lines += ["## Terms", "", "Each is a summand of an objective, a folder of its name in `fewstep/objectives`.", ""]
    for name in term_names():
        lines += _table(term_settings(name), f"`{name}`", 3)
    return "\n".join(lines)


def _model(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Sections of a model: its own keys, then every model that it holds, under the path that leads to it. Terms, which
    are many, stand apart."""
    yield from _table(model, f"`{prefix.rstrip('.')}`" if prefix else "", 2)
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            if issubclass(inner, TermSettings):
                continue
            yield from _model(inner, f"{prefix}{_key(name, field)}.")


def _table(model: type[BaseModel], title: str, level: int) -> Iterator[str]:
    if title:
        yield from ("#" * level + f" {title}", "")
    told = inspect.cleandoc(model.__doc__ or "").split("\n\nAttributes:")[0]
    yield from (told, "")
    notes = {name: note.replace("|", "\\|") for name, note in _attributes(model).items() if name in model.model_fields}
    yield from ("| key | type | default |" + " meaning |" * bool(notes), "| :-- | :-- | :-- |" + " :-- |" * bool(notes))
    for name, field in model.model_fields.items():
        kind = " ".join(filter(None, [_type(field.annotation), _range(field)]))
        meaning = f" {notes.get(name, '')} |" if notes else ""
        yield f"| `{_key(name, field)}` | {kind} | {_default(field)} |{meaning}"
    yield ""


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and of those that it extends, and remarks beside its fields, say of them, by name.
    """
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= {name: remark for name, remark in _REMARK.findall(inspect.getsource(kind))
                      if not remark.startswith(("noqa", "fmt:"))}
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        part = text.split("Attributes:\n", 1)[1] if "Attributes:\n" in text else ""
        for names, meaning in re.findall(r"^    ([\w, ]+): (.*(?:\n {6,}.*)*)", part, re.MULTILINE):
            found |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    return found


def _range(field: FieldInfo) -> str:
    """The bounds of a number."""
    told = [f"{sign} {getattr(part, name)}" for part in field.metadata for name, sign in _BOUNDS.items()
            if getattr(part, name, None) is not None]
    return ", ".join(told)


def _models(annotation: object) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    found = [model for part in typing.get_args(annotation) for model in _models(part)]
    return list(dict.fromkeys(found))


def _type(annotation: object) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " \\| ".join(dict.fromkeys(_type(part) for part in parts))
    if annotation is type(None):
        return "`null`"
    if annotation is Ellipsis:
        return "…"
    if origin is tuple:
        return f"list of {_type(parts[0])}" if parts else "list"
    if origin is dict:
        return f"mapping of {_type(parts[0])} to {_type(parts[1])}"
    name = getattr(annotation, "__name__", str(annotation))
    return f"section `{name}`" if inspect.isclass(annotation) and issubclass(annotation, BaseModel) else \
        {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(name, f"`{name}`")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"
