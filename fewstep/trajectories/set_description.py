"""``set.json``: what a finished set is, with a checksum of itself."""

import hashlib
import json
from pathlib import Path

from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.io import canonical_json, write_atomically

FORMAT = "fewstep-trajectories-1"
NAME = "set.json"


def write(folder: Path, content: dict) -> None:
    """Write ``content`` as the folder's ``set.json``, atomically. Raises DiskFull if it is."""
    body = {"format": FORMAT, **content}
    check = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    write_atomically(folder / NAME, json.dumps({**body, "check": check}, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> dict:
    """The checked content of the folder's ``set.json``.

    Raises:
        SettingsError: the folder holds no finished set.
        CorruptData: the file is damaged or of another format.
    """
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_bytes())
        check = content.pop("check")
        damaged = hashlib.sha256(canonical_json(content).encode()).hexdigest() != check
        known = content["format"] == FORMAT
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SettingsError(f"{folder}: no trajectory set here ({NAME} is missing)") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptData(f"{path}: damaged ({error})") from error
    if damaged:
        raise CorruptData(f"{path}: damaged (its checksum differs)")
    if not known:
        raise CorruptData(f"{path}: format {content['format']!r}, expected {FORMAT!r}")
    return content


def shard_name(shard: int) -> str:
    """File name of shard number ``shard``."""
    return f"{shard:05d}.tar"


def record_name(record: int) -> str:
    """Name of record number ``record`` in its shard."""
    return f"{record:08d}"
