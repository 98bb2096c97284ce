"""JSON documents that a later version reads again: pydantic models with a `format`, validated when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from fewstep.util.config import Strict, parse
from fewstep.util.errors import DataDiffers, SettingsError
from fewstep.util.plain_data import NotPlain, from_json

Document = TypeVar("Document", bound=Strict)


def read_document(model: type[Document], text: str | bytes, source: str | Path) -> Document:
    """`text` as the document `model`; `source` names the file or the place in it.

    Raises:
        DataDiffers: it is no JSON, has another format, or a field that is unknown, missing or of the wrong type. The
            message begins with `source` and the field.
    """
    try:
        data = from_json(text)
    except NotPlain as error:
        raise DataDiffers(f"{source}: not readable as JSON: {error}") from None
    return validate_document(model, data, source)


def validate_document(model: type[Document], data: Any, source: str | Path) -> Document:
    """As `read_document`, for JSON that was read already."""
    newest = model.model_fields["format"].default
    if isinstance(data, dict) and data.get("format", newest) != newest:
        raise DataDiffers(f"{source}: format: {data['format']!r}, this version of fewstep reads format {newest}")
    try:
        return parse(model, data, str(source))
    except SettingsError as error:
        raise DataDiffers(str(error).splitlines()[0]) from None
