"""What a flow's parameters say of params.yaml: the keys that differ from it, nested as they are there, with a schema.

Prefect's server refuses a run whose parameters do not fit the schema, and its pages make a form of it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import WithJsonSchema

from tasks.config import params_file
from tasks.config.schema import Settings

_NOT_OF_A_PART = ("$defs", "default", "required")


def _part_of(schema: Any, definitions: dict[str, Any]) -> Any:
    """The JSON schema of an object that has any part of what `schema` describes: no key is required or has a default.
    Definitions stand where they are used."""
    if isinstance(schema, list):
        return [_part_of(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _part_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kept = {key: value for key, value in schema.items() if key not in _NOT_OF_A_PART}
    return {key: {name: _part_of(item, definitions) for name, item in value.items()} if key == "properties"
            else _part_of(value, definitions) for key, value in kept.items()}


_whole = Settings.model_json_schema()
Changes = Annotated[dict[str, Any], WithJsonSchema(_part_of(_whole, _whole["$defs"]))]


def changes(sets: tuple[str, ...]) -> dict[str, Any]:
    """Assignments such as `distill.images=1000` as such an object. Raises SettingsError for a malformed one."""
    return params_file.apply({}, list(sets))


def assignments(changed: dict[str, Any], above: str = "") -> list[str]:
    """Such an object as assignments, a value of JSON each."""
    made = []
    for key, value in changed.items():
        inner = isinstance(value, dict) and value
        made += assignments(value, f"{above}{key}.") if inner else [f"{above}{key}={json.dumps(value)}"]
    return made
