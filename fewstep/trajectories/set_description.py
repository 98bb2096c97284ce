"""``set.json``: what a finished set is, with a checksum of itself."""

from pathlib import Path

from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import SettingsError

FORMAT = "fewstep-trajectories-1"
NAME = "set.json"


def write(folder: Path, content: dict) -> None:
    """Write ``content`` as the folder's ``set.json``, atomically. Raises DiskFull."""
    write_checked(folder / NAME, FORMAT, content)


def read(folder: Path) -> dict:
    """The checked content of the folder's ``set.json``.

    Raises:
        SettingsError: the folder holds no finished set.
        CorruptData: the file is damaged or of another format.
    """
    try:
        return read_checked(Path(folder) / NAME, FORMAT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SettingsError(f"{folder}: no trajectory set here ({NAME} is missing)") from error


def shard_name(shard: int) -> str:
    """File name of shard number ``shard``."""
    return f"{shard:05d}.tar"


def record_name(record: int) -> str:
    """Name of record number ``record`` in its shard."""
    return f"{record:08d}"
