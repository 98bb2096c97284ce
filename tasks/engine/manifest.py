"""What makes an output valid: its manifest.json, which lists every file and all that determined them.

Nothing in a manifest depends on when or how long: the same work gives the same manifest. `digest` covers paths, sizes
and hashes of the files only; a later stage's key contains it, so an input made anew with equal bytes changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fewstep.util.errors import CorruptData, FewstepError
from fewstep.util.files import write_atomically
from tasks.storage.file_io import StatTable, list_files

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class File:
    """One file of an output: POSIX path relative to the folder, bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A finished output. `inputs` maps input names to {key, digest}; `given` maps outside inputs to their digest."""

    stage: str
    key: str
    digest: str
    files: tuple[File, ...]
    settings: dict
    seed: int
    inputs: dict
    given: dict
    code: str
    versions: dict
    fingerprint: list
    summary: dict = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def canonical(value) -> bytes:
    """One byte string per JSON value, whatever the order of its keys. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def tree_digest(files: list[File] | tuple[File, ...]) -> str:
    """SHA-256 over the sorted (path, bytes, sha256) of files."""
    return hashlib.sha256(canonical(sorted([f.path, f.bytes, f.sha256] for f in files))).hexdigest()


def scan(folder: Path, table: StatTable, *, fresh: bool = False) -> tuple[File, ...]:
    """Every file in `folder` except its manifest, with size and hash (known ones from the table unless `fresh`)."""
    files = tuple(File(name, os.stat(folder / name).st_size, table.sha256(folder / name, fresh=fresh))
                  for name in list_files(folder) if name != NAME)
    table.commit()
    return files


def write(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`, atomically."""
    write_atomically(folder / NAME, manifest.to_json())


def load(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None when there is none. Raises CorruptData when it is damaged."""
    path = Path(folder) / NAME
    try:
        data = json.loads(path.read_bytes())
        if data.get("format") != FORMAT:
            raise FewstepError(f"{path}: manifest format {data.get('format')!r}, this version reads {FORMAT}",
                               hint="use the version of fewstep that wrote it, or remove the folder to make it anew")
        data["files"] = tuple(File(**file) for file in data["files"])
        manifest = Manifest(**data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CorruptData(f"{path}: not a valid manifest ({error})") from None
    if tree_digest(manifest.files) != manifest.digest:
        raise CorruptData(f"{path}: the digest does not fit the list of files")
    return manifest


def problems(folder: Path, manifest: Manifest, table: StatTable, *, fresh: bool = False) -> list[str]:
    """What differs between `folder` and its manifest, one line per file; empty when it verifies.

    With `fresh` every byte is read; else only files whose size, times or inode are new to the table.
    """
    folder, found = Path(folder), []
    expected = {file.path: file for file in manifest.files}
    try:
        present = set(list_files(folder)) - {NAME}
    except FewstepError as error:
        return [str(error)]
    found += [f"{folder / name}: is missing" for name in sorted(expected.keys() - present)]
    found += [f"{folder / name}: is not in the manifest" for name in sorted(present - expected.keys())]
    for name in sorted(expected.keys() & present):
        size = os.stat(folder / name).st_size
        if size != expected[name].bytes:
            found.append(f"{folder / name}: has {size} bytes instead of {expected[name].bytes}")
        elif table.sha256(folder / name, fresh=fresh) != expected[name].sha256:
            found.append(f"{folder / name}: its bytes differ from its checksum")
    table.commit()
    return found


def verify(folder: Path, table: StatTable, *, fresh: bool = False) -> Manifest:
    """The verified manifest of `folder`. Raises CorruptData naming the first file that differs or is missing."""
    manifest = load(folder)
    if manifest is None:
        raise CorruptData(f"{folder}: has no {NAME}, so it is not a finished output")
    found = problems(folder, manifest, table, fresh=fresh)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CorruptData(found[0] + more, hint="`fewstep run` makes or restores what does not verify")
    return manifest


def load_quietly(folder: Path) -> Manifest | None:
    """As `load`, but None for a damaged manifest too."""
    try:
        return load(folder)
    except FewstepError:
        return None
