"""What makes an output valid: its manifest.json, which lists every file and all that determined them.

Nothing in a manifest depends on when or how long: the same work gives the same manifest; only what a person accepted
later is added to it. `digest` covers paths, sizes and hashes of the files only; a later stage's key contains it, so an
input made again with equal bytes changes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fewstep.util.config import Strict, parse
from fewstep.util.errors import CorruptData, FewstepError, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_json
from fewstep.util.plain_data import NotPlain, from_json
from tasks.storage.file_io import StatTable, list_files

NAME = "manifest.json"
FORMAT = 2
READABLE = (1, 2)   # 1: without code_files and accepted


class File(Strict):
    """One file of an output: POSIX path relative to the folder, bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


class InputRecord(Strict):
    """The output of an earlier stage that was read: its key and the digest of its files."""

    key: str
    digest: str


class Acceptance(Strict):
    """Code that a person declared to make the same output as the code that made it.

    Attributes:
        code: digest of the accepted code; `files`: SHA-256 of the statements of each of its files.
        key: what the output's key would be, had that code made it.
        who, when, why: the person, the time in UTC (ISO 8601), the reason given.
        compared: commit of the old code, and number of files and digest of a short run of both, which made the same
            bits; empty where nothing was compared.
    """

    code: str
    files: dict[str, str]
    key: str
    who: str
    when: str
    why: str
    compared: dict[str, Any] = {}


class Manifest(Strict):
    """A finished output.

    Attributes:
        stage, key: the stage and the identity of the output (tasks.engine.stage_key).
        digest: `tree_digest` of the files.
        files: every file but the manifest.
        settings, seed: the stage's resolved settings and the experiment's seed.
        inputs: outputs of earlier stages that were read, by stage.
        given: digests of what came from outside the pipeline, by name.
        code, code_files: digest of the code that made it, and of the statements of each of its files.
        versions: of Python and libraries.
        fingerprint: the machines it was made on (fewstep.util.fingerprint).
        summary: what the stage says of its result.
        accepted: code accepted since as making the same output.
    """

    stage: str
    key: str
    digest: str
    files: tuple[File, ...]
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, InputRecord]
    given: dict[str, str]
    code: str
    versions: dict[str, str]
    fingerprint: tuple[dict[str, Any], ...]
    summary: dict[str, Any] = {}
    code_files: dict[str, str] = {}
    accepted: tuple[Acceptance, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def made_by(self, code: str) -> bool:
        """Whether the code of this digest made the output, or was accepted as making the same."""
        return code == self.code or any(acceptance.code == code for acceptance in self.accepted)


def tree_digest(files: list[File] | tuple[File, ...]) -> str:
    """SHA-256 over the sorted (path, bytes, sha256) of files."""
    return sha256_json(sorted([file.path, file.bytes, file.sha256] for file in files))


def scan(folder: Path, table: StatTable, *, fresh: bool = False) -> tuple[File, ...]:
    """Every file in `folder` except its manifest, with size and hash (known ones from the table unless `fresh`)."""
    files = tuple(File(path=name, bytes=os.stat(folder / name).st_size, sha256=table.sha256(folder / name, fresh=fresh))
                  for name in list_files(folder) if name != NAME)
    table.commit()
    return files


def write(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`, atomically."""
    write_atomically(folder / NAME, manifest.to_json())


def parse_manifest(data: Any, source: str) -> Manifest:
    """The manifest in a JSON document. Raises FewstepError for a format not known here, CorruptData for damage."""
    if isinstance(data, dict) and data.get("format") not in READABLE:
        raise FewstepError(f"{source}: manifest format {data.get('format')!r}, this version reads "
                           f"{' and '.join(map(str, READABLE))}",
                           hint="use the version of fewstep that wrote it, or remove the folder to make it anew")
    try:
        manifest = parse(Manifest, data, source)
    except SettingsError as error:
        raise CorruptData(f"{source}: not a valid manifest ({str(error).splitlines()[0]})") from None
    if tree_digest(manifest.files) != manifest.digest:
        raise CorruptData(f"{source}: the digest does not fit the list of files")
    return manifest


def read(path: Path) -> Manifest:
    """The manifest in the file `path`. Raises FileNotFoundError, and as `parse_manifest` does."""
    try:
        data = from_json(Path(path).read_bytes())
    except NotPlain as error:
        raise CorruptData(f"{path}: not a valid manifest ({error})") from None
    return parse_manifest(data, str(path))


def load(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None when there is none. Raises CorruptData when it is damaged."""
    try:
        return read(Path(folder) / NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None


def problems(folder: Path, manifest: Manifest, table: StatTable, *, fresh: bool = False) -> list[str]:
    """What differs between `folder` and its manifest, one line per file; empty when it verifies.

    With `fresh` every byte is read; else only files whose size, times or inode are new to the table.
    """
    folder = Path(folder)
    expected = {file.path: file for file in manifest.files}
    try:
        present = set(list_files(folder)) - {NAME}
    except FewstepError as error:
        return [str(error)]
    differences = [f"{folder / name}: is missing" for name in sorted(expected.keys() - present)]
    differences += [f"{folder / name}: is not in the manifest" for name in sorted(present - expected.keys())]
    for name in sorted(expected.keys() & present):
        size = os.stat(folder / name).st_size
        if size != expected[name].bytes:
            differences.append(f"{folder / name}: has {size} bytes instead of {expected[name].bytes}")
        elif table.sha256(folder / name, fresh=fresh) != expected[name].sha256:
            differences.append(f"{folder / name}: its bytes differ from its checksum")
    table.commit()
    return differences


def verify(folder: Path, table: StatTable, *, fresh: bool = False) -> Manifest:
    """The verified manifest of `folder`. Raises CorruptData naming the first file that differs or is missing."""
    manifest = load(folder)
    if manifest is None:
        raise CorruptData(f"{folder}: has no {NAME}, so it is not a finished output")
    differences = problems(folder, manifest, table, fresh=fresh)
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise CorruptData(differences[0] + more, hint="`fewstep run` makes or restores what does not verify")
    return manifest


def load_quietly(folder: Path) -> Manifest | None:
    """As `load`, but None for a damaged manifest too."""
    try:
        return load(folder)
    except FewstepError:
        return None
