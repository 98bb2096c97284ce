"""What a unit needs and makes, by content, for a process that does not see the run's disk.

The store that hosts share holds it: the inputs as DVC keeps them there, what comes from outside the pipeline and what
the unit makes under `work/<key>/units/`, each file by its SHA-256. All of that goes when the output is finished, with
the rest of the key's unfinished work (tasks.storage.sharing.shared_work).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fewstep.util.config import Strict
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.files import TEMPORARY
from fewstep.util.hashing import sha256_file
from fewstep.util.plain_data import from_json
from tasks.engine import manifest as manifests
from tasks.engine.context_message import ContextMessage
from tasks.stages.base import Context
from tasks.storage.dvc import dvc_repo
from tasks.storage.dvc.dvc_config import default_remote
from tasks.storage.file_io import StatTable
from tasks.storage.published_outputs import restorable
from tasks.storage.sharing.shared_store import FOLDER
from tasks.storage.sharing.shared_work import SharedFile, inside

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

M = TypeVar("M", bound=ContextMessage)
CACHE = "FEWSTEP_UNIT_CACHE"
"""Environment variable: folder of a host that does units of others' runs; default ~/.cache/fewstep/units."""


class Offer(Strict):
    """Where a process of another host finds what the units of one work need.

    Attributes:
        url, endpoint: of DVC's default remote.
        inputs: outputs of earlier stages, by stage, as DVC calls them.
        outside: files of what comes from outside the pipeline, by name; a single file has the path "".
    """

    url: str
    endpoint: str | None
    inputs: dict[str, str]
    outside: dict[str, tuple[SharedFile, ...]]

    @property
    def remote(self) -> Store:
        """The remote itself, where DVC's files lie."""
        from tasks.storage.object_store import Store  # boto3

        return Store(self.url, self.endpoint)

    @property
    def store(self) -> Store:
        """What lies below `fewstep/` there."""
        from tasks.storage.object_store import Store  # boto3

        return Store(f"{self.url.rstrip('/')}/{FOLDER}", self.endpoint)


def offer(context: Context) -> Offer | None:
    """Have the shared store hold what the units of this work need; None where hosts share none, or where DVC does not
    keep an input."""
    remote = default_remote(context.workspace)
    if remote is None or not remote.url.startswith("s3://"):
        return None
    inputs = {}
    for name, manifest in context.manifests.items():
        known = restorable(context.workspace, manifest.key)
        if known is None:
            return None
        dvc_repo.push_output(context.workspace, known.md5)
        inputs[name] = known.md5
    made = Offer(url=remote.url, endpoint=remote.endpoint, inputs=inputs, outside={})
    given = {name: upload(made.store, context.key, path) for name, path in context.outside.items()}
    return made.model_copy(update={"outside": given})


def required_offer(context: Context, host: str) -> Offer:
    """The same for a host that does not see the run's disk. Raises SettingsError where hosts share no store."""
    found = context.once(offer)
    if found is None:
        raise unseen(host, context.work)
    return found


def unseen(host: str, work: Path | str) -> SettingsError:
    """The error of a host that can learn nothing of the work."""
    return SettingsError(f"{host} does not see {work}, and hosts share no object store",
                         hint="give the project a DVC remote in one (s3://…), or the hosts one disk")


def upload(store: Store, key: str, place: Path, known: frozenset[str] = frozenset()) -> tuple[SharedFile, ...]:
    """Have the store hold the file `place`, or all files of that folder but those whose paths are `known`."""
    if place.is_file():
        found = {"": place}
    else:
        found = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*"))
                 if path.is_file() and not path.name.startswith(TEMPORARY)}
    files = []
    for relative, path in found.items():
        if relative not in known:
            digest = sha256_file(path)
            name = f"work/{key}/units/{digest}"
            store.upload(name, path)
            files.append(SharedFile(path=relative, bytes=path.stat().st_size, sha256=digest, object=name))
    return tuple(files)


def download(store: Store, files: tuple[SharedFile, ...], place: Path) -> None:
    """Put files that `upload` listed where they belong at or below `place`. Raises CorruptData for other bytes."""
    for file in files:
        target = place / inside(file.path, "what a unit made")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target.parent) as folder:
            fetched = Path(folder, "file")
            store.download(file.object, fetched)
            if sha256_file(fetched) != file.sha256:
                raise CorruptData(f"{file.object} in the shared store differs from its hash")
            os.replace(fetched, target)


def brought(message: M, offer: Offer, folder: Path) -> M:
    """The message with folders of this host, in which lies what it needs; `folder`: a new one, for the work."""
    cache, store = UnitCache(), offer.store
    for place in ("out", "scratch"):
        (folder / "work" / place).mkdir(parents=True)
    inputs = {name: str(cache.input(offer, md5)) for name, md5 in offer.inputs.items()}
    outside = {name: folder / "outside" / name / Path(message.outside[name]).name for name in offer.outside}
    for name, files in offer.outside.items():
        download(store, files, outside[name])
    return message.model_copy(update={
        "root": str(folder), "inputs": inputs, "outside": {name: str(path) for name, path in outside.items()},
        "work": str(folder / "work")})  # fmt: skip


class UnitCache:
    """The folder of a host in which units of other hosts' runs find their inputs, and work."""

    def __init__(self):
        given = os.environ.get(CACHE)
        self.folder = Path(given) if given else Path.home() / ".cache" / "fewstep" / "units"
        self.folder.mkdir(parents=True, exist_ok=True)

    def input(self, offer: Offer, md5: str) -> Path:
        """The output that DVC calls `md5`, verified against its own manifest. Processes of the host share it."""
        target = self.folder / "inputs" / md5
        if not target.is_dir():
            with self.working_folder() as folder:
                fetch_output(offer.remote, md5, folder / "output")
                with contextlib.closing(StatTable(folder / "stat.sqlite")) as table:
                    manifests.verify(folder / "output", table)
                target.parent.mkdir(exist_ok=True)
                with contextlib.suppress(OSError):      # another process was quicker
                    os.rename(folder / "output", target)
        return target

    @contextlib.contextmanager
    def working_folder(self):
        """A new folder for as long as the block lasts."""
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def fetch_output(remote: Store, md5: str, target: Path) -> None:
    """Copy the folder that DVC calls `md5` from a remote to the new folder `target`. Who asks verifies the bytes.

    DVC itself does so only in a checkout with its cache. A remote holds each file as `files/md5/ab/cdef…`, and for a
    folder a JSON list of paths.
    """

    def name(of: str) -> str:
        return f"files/md5/{of[:2]}/{of[2:]}"

    rows = from_json(remote.read(name(md5)))
    for row in rows:
        remote.download(name(row["md5"]), target / inside(row["relpath"], f"DVC's listing {md5}"))
