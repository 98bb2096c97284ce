"""Unfinished work in the shared store, so that another host continues it where its holder stopped.

A stage's folder of work is what survives a kill, whatever the instant (tasks.stages.base). So a picture of its files is
what another host needs, and the folder is the same wherever it is continued. Each file lies under its SHA-256 in
`work/<key>/<epoch>/`, beside the picture's listing; the lease of the key says which listing counts. A holder that lost
its lease cannot change that, and can delete only what the listing that its successor began with does not name.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fewstep.util.config import Strict
from fewstep.util.errors import CorruptData, FewstepError
from fewstep.util.files import TEMPORARY, write_atomically
from fewstep.util.hashing import sha256_bytes, sha256_file
from tasks.storage.documents import read_document, validate_document
from tasks.storage.file_io import discard
from tasks.storage.sharing.lease import LeaseLost
from tasks.storage.sharing.lease_keeper import LeaseKeeper

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

SECONDS = "FEWSTEP_SHARE_SECONDS"
"""Environment variable: between two pictures of a stage's unfinished work; default 120."""
_EPOCH = "lease-epoch"      # in the folder of work: the lease under which it was last worked on here
_SCANS = 20                 # of a folder that is being written in, until two in a row are equal


class SharedFile(Strict):
    """A file of the folder: its path there, size, SHA-256, and the object that holds its bytes."""

    path: str
    bytes: int
    sha256: str
    object: str


class Listing(Strict):
    """All files of a folder of work at one instant."""

    format: int = 1
    files: tuple[SharedFile, ...]


class Pointer(Strict):
    """What the lease says of the work: the object with its listing, that object's SHA-256, the epoch that made it."""

    format: int = 1
    listing: str
    sha256: str
    epoch: int


def inside(path: str, source: str) -> PurePosixPath:
    """A path that `source` names in a folder. Raises CorruptData for one that leads out of it."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts:
        raise CorruptData(f"{source} names a path outside of the folder: {path}")
    return found


class SharedWork:
    """The unfinished work on the key whose lease `keeper` keeps.

    Args:
        store: that the hosts share.
        key: of the output.
        keeper: of its lease.
        note: told what a person may want to know.
        warn: told what went wrong and does not stop the work.
    """

    def __init__(self, store: Store, key: str, keeper: LeaseKeeper, note: Callable[[str], None],
                 warn: Callable[[str], None]):
        self.store, self.key, self.keeper = store, key, keeper
        self._note, self._warn = note, warn
        self._epoch = keeper.lease.file.epoch
        self._listed: dict[str, SharedFile] = {}            # of the listing that counts, by SHA-256
        self._hashes: dict[tuple, str] = {}                 # SHA-256 by path, size, times and inode
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def bring(self, work: Path, trash: Path) -> None:
        """Put what another host left into the folder `work`, if it is newer than what lies there.

        Where it cannot be had whole, that is a warning, and what lies there is continued.
        """
        said = self.keeper.lease.file.content.get("work")
        if said is not None:
            try:
                pointer = validate_document(Pointer, said, f"the lease of {self.key[:12]}")
                if pointer.epoch > _epoch_here(work):
                    self._fetch(pointer, work, trash)
            except FewstepError as error:
                self._warn(f"the work that another host left could not be had: {error}")
        write_atomically(work / _EPOCH, str(self._epoch))

    def _fetch(self, pointer: Pointer, work: Path, trash: Path) -> None:
        data = self.store.read(pointer.listing)
        if sha256_bytes(data) != pointer.sha256:
            raise CorruptData(f"{pointer.listing} in the shared store differs from its hash")
        listing = read_document(Listing, data, pointer.listing)
        target = work.with_name(f"{work.name}-fetch")
        discard(target, trash)
        for file in listing.files:
            path = inside(file.path, pointer.listing)
            self.store.download(file.object, target / path)
            if sha256_file(target / path) != file.sha256:
                raise CorruptData(f"{file.object} in the shared store differs from its hash")
        target.mkdir(parents=True, exist_ok=True)
        discard(work, trash)
        os.rename(target, work)
        self._listed = {file.sha256: file for file in listing.files}
        self._note(f"continued from what another host left ({len(listing.files)} files)")

    # while the work goes on

    def start(self, work: Path) -> None:
        """Upload a picture of `work` every so often, in the background, until `stop`."""
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True, name=f"share {self.key[:12]}")
        self._thread.start()

    def stop(self) -> None:
        """No further picture is begun; one under way is given up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, work: Path) -> None:
        seconds = float(os.environ.get(SECONDS, 120))
        while not self._stop.wait(seconds):
            self.upload(work, self._stop.is_set)

    def upload(self, work: Path, given_up: Callable[[], bool] = lambda: False) -> None:
        """Let the shared store hold what lies in `work` now. That it cannot is a warning; the next call tries again.

        `given_up`: asked before each file, whether to leave it at that.
        """
        if self.keeper.lost is not None:
            return
        try:
            if self._upload(work, given_up):
                self._note("work so far is in the shared store")
        except LeaseLost:
            return      # who holds it now says what counts
        except FewstepError as error:
            self._warn(f"work so far could not be shared: {error}")

    def _upload(self, work: Path, given_up: Callable[[], bool]) -> bool:
        """Whether there is a new picture. A file that changes or goes away meanwhile ends the attempt."""
        found = _still(work)
        if not found:
            return False
        files = []
        for path, stat in found.items():
            if given_up():
                return False
            row = (path, stat)
            if row not in self._hashes:
                try:
                    self._hashes[row] = sha256_file(work / path)
                except FileNotFoundError:
                    return False
            digest = self._hashes[row]
            known = self._listed.get(digest)
            name = known.object if known is not None else self._name(digest)
            if known is None:
                try:
                    self.store.upload(name, work / path)
                except FileNotFoundError:
                    return False
                if _stat(work / path) != stat:
                    return False
            files.append(SharedFile(path=path, bytes=stat[0], sha256=digest, object=name))
            self._listed.setdefault(digest, files[-1])
        self._hashes = {(path, stat): self._hashes[path, stat] for path, stat in found.items()}
        return self._count(Listing(files=tuple(files)))

    def _count(self, listing: Listing) -> bool:
        """Have the lease name this listing, and delete what it no longer needs; False where it did already."""
        data = json.dumps(listing.model_dump(mode="json"), sort_keys=True).encode()
        digest = sha256_bytes(data)
        former = self.keeper.lease.file.content.get("work") or {}
        if former.get("sha256") == digest:
            return False
        name = self._name(digest)
        self.store.write_if(name, data, None)       # under its own hash: what is there already is the same
        pointer = Pointer(listing=name, sha256=digest, epoch=self._epoch)
        self.keeper.lease.renew(work=pointer.model_dump(mode="json"))
        kept = {file.sha256: file for file in listing.files}
        gone = [file.object for digest, file in self._listed.items() if digest not in kept]
        self.store.delete([*gone, former["listing"]] if former else gone)
        self._listed = kept
        return True

    def forget(self) -> None:
        """Delete all of it: the output is finished. What cannot be deleted now is a warning."""
        try:
            self.store.delete(self.store.names(f"work/{self.key}/"))
        except FewstepError as error:
            self._warn(f"unfinished work stays in the shared store: {error}")

    def _name(self, digest: str) -> str:
        return f"work/{self.key}/{self._epoch}/{digest}"


def _epoch_here(work: Path) -> int:
    try:
        return int((work / _EPOCH).read_text())
    except (OSError, ValueError):
        return 0


def _still(work: Path) -> dict[str, tuple] | None:
    """The finished files below `work` with their `_stat`, as they all were at one instant; None where it never rests.

    Reading a folder takes time in which it changes: two equal readings in a row are the folder between them.
    """
    former = None
    for _ in range(_SCANS):
        found = _scan(work)
        if found == former:
            return found
        former = found
    return None


def _scan(work: Path) -> dict[str, tuple]:
    found = {}
    for parent, _, names in os.walk(work):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(work).as_posix()
            stat = _stat(path)
            if stat is not None and not name.startswith(TEMPORARY) and relative != _EPOCH:
                found[relative] = stat
    return found


def _stat(path: Path) -> tuple | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
