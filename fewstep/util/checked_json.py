"""JSON documents that carry their format and a SHA-256 of themselves, so that damage is noticed. No torch here."""

import json
from pathlib import Path
from typing import Any

from fewstep.util.errors import CorruptData
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_json
from fewstep.util.plain_data import from_json


def write_checked(path: Path, form: str, content: dict[str, Any]) -> None:
    """Write `content` with the keys `format` (`form`) and `check` added, atomically. Raises DiskFull."""
    body = json.loads(json.dumps({"format": form, **content}))  # as it is read: keys are texts
    write_atomically(path, json.dumps({**body, "check": sha256_json(body)}, indent=1, sort_keys=True) + "\n")


def read_checked(path: Path, form: str) -> dict[str, Any]:
    """What `write_checked` wrote, without `check`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        CorruptData: it is damaged, or of another format.
    """
    try:
        content = from_json(path.read_bytes())
        check, found = content.pop("check"), content["format"]
        whole = sha256_json(content) == check
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptData(f"{path}: damaged ({error})") from error
    if not whole:
        raise CorruptData(f"{path}: damaged (its checksum differs)")
    if found != form:
        raise CorruptData(f"{path}: format {found!r}, expected {form!r}")
    return content
