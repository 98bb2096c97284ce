"""Exact checkpoints: safetensors beside JSON, written atomically, verified by hash, the newest two kept.

One is written in a thread, from a copy of the tensors, while the training goes on; the last one in the training's own.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.training.distributed import World
from fewstep.training.saving.snapshot import Snapshot
from fewstep.training.saving.tensor_file import write_tensors
from fewstep.util.background import Background
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import DataDiffers
from fewstep.util.files import replacing, sweep
from fewstep.util.hashing import sha256_file

FORMAT = "fewstep-checkpoint/1"
KEEP = 2
TENSORS = ".safetensors"
ROWS, WHOLE = "Shard(0)", "Replicate()"
"""Placements of a tensor on processes: equal runs of rows in their order, the last ones shorter or empty; or all."""


@dataclass
class Checkpoint:
    """What stood in a checkpoint: the step that comes next, its record, its tensors."""

    step: int
    record: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one round in `folder`.

    `step-N.safetensors` holds the tensors; `step-N.json`, written last, its hash and the record that makes it valid,
    with a hash of itself. A kill at any instant leaves the former ones valid.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = warnings.warn):
        self.folder, self.warn = folder, warn
        self.behind = Background("fewstep-checkpoint")
        self._snapshot, self._copies, self._told = Snapshot(), 1, False

    def save(self, step: int, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Writes a checkpoint, after the one under way. Raises DiskFull, and what that one's thread met."""
        self.behind.wait()
        self._store(step, record, tensors)

    def save_behind(self, step: int, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Copies the tensors, after the checkpoint under way, and has a thread write them; `behind` tells how it went.

        Where the copy would not fit in the memory that is free, this is `save`.
        """
        self.behind.wait()
        if not self._snapshot.fits(tensors, self._copies):
            self._tell(self._snapshot.missing(tensors))
            self._store(step, record, tensors)
            return
        copy = self._snapshot.take(tensors)
        self.behind.start(lambda: self._store(step, record, copy))

    def _tell(self, size: int) -> None:
        if not self._told:
            self.warn(f"{self.folder}: a copy of {size / 1e9:.1f} GB does not fit beside the training, which therefore "
                      "waits while checkpoints are written")  # fmt: skip
        self._told = True

    def _store(self, step: int, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._commit(step, {"sha256": self._write(f"{_stem(step)}{TENSORS}", tensors), **record})

    def _write(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Writes a file of tensors; returns its SHA-256."""
        with replacing(self.folder / name) as temporary:
            return write_tensors(temporary, tensors)

    def _commit(self, step: int, record: dict[str, Any]) -> None:
        """Makes what was written of this step a checkpoint, and removes the oldest."""
        write_checked(self.folder / f"{_stem(step)}.json", FORMAT, {"step": step, **record})
        for old in self._committed()[:-KEEP]:
            old.unlink(missing_ok=True)
            for file in old.parent.glob(f"{old.stem}.*"):
                file.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose hash is right, None if there never was one.

        Raises DataDiffers if there are checkpoints but none is whole: a fresh start would lose work in silence.
        """
        sweep(self.folder)
        records = self._committed()
        for path in reversed(records):
            found = self._tried(path)
            if found is not None:
                return found
        if records:
            raise DataDiffers(f"no checkpoint in {self.folder} is whole", hint=f"remove {self.folder} to begin anew")
        files = self.folder.glob(f"step-*{TENSORS}") if self.folder.is_dir() else []
        orphans = sorted({path.name.partition(".")[0] for path in files})
        if len(orphans) > 1:  # a single one may come from a kill before the first record was written
            raise DataDiffers(
                f"{self.folder / orphans[-1]}{TENSORS} has lost its record ({orphans[-1]}.json)",
                hint=f"restore it, or remove {self.folder} to begin anew",
            )
        return None

    def _committed(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json")) if self.folder.is_dir() else []

    def _tried(self, path: Path) -> Checkpoint | None:
        """The checkpoint of this record, None where it is damaged."""
        try:
            return self._read(path)
        except (DataDiffers, OSError, ValueError, KeyError, SafetensorError) as error:
            self.warn(f"checkpoint {path.stem} is damaged ({error}); trying the one before")
            return None

    def _read(self, path: Path) -> Checkpoint:
        record = read_checked(path, FORMAT)
        return Checkpoint(int(record["step"]), record, self._tensors(path, record))

    def _tensors(self, path: Path, record: dict[str, Any]) -> dict[str, Tensor]:
        """All tensors, whole, whoever wrote them."""
        if "shards" not in record:
            return self._verified(path.with_suffix(TENSORS).name, record["sha256"])
        parts = [self._verified(name, digest) for name, digest in record["shards"].items()]
        return {name: torch.cat([part[name] for part in parts]) if record["placements"][name] == ROWS else value
                for name, value in parts[0].items()}  # fmt: skip

    def _verified(self, name: str, digest: str) -> dict[str, Tensor]:
        file = self.folder / name
        if not file.is_file():
            raise DataDiffers(f"{file} is missing")
        if sha256_file(file) != digest:
            raise DataDiffers(f"{file} differs from its hash")
        return load_file(file)


class ShardedCheckpoints(Checkpoints):
    """The same of a round whose processes hold rows of its tensors: `step-N.rank-R.safetensors` are those of one of
    them. The record, which the first process writes when all have written, has every file's hash, the number of
    processes (`mesh`) and what the caller's says of how each tensor is placed on them (`placements`).

    Args:
        world: the processes, which all save and ask at the same time.
    """

    def __init__(self, folder: Path, world: World, warn: Callable[[str], None] = warnings.warn):
        super().__init__(folder, warn)
        self.world, self._copies = world, world.size
        self._writers = world.apart()   # what the threads say to each other does not meet what the trainings do

    def _store(self, step: int, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name, digest = f"{_stem(step)}.rank-{self.world.rank}{TENSORS}", None
        try:
            digest = self._write(name, tensors)
        finally:    # the others wait for it, also where it failed
            written = dict(self._writers.of_each((name, digest)))
        if self.world.rank == 0 and None not in written.values():
            self._commit(step, {"shards": written, "mesh": [self.world.size], **record})

    def _tried(self, path: Path) -> Checkpoint | None:
        found = super()._tried(path)
        return None if self.world.any(found is None) else found

    def _tensors(self, path: Path, record: dict[str, Any]) -> dict[str, Tensor]:
        """Of what as many processes wrote this one's rows, else all."""
        if record.get("mesh") != [self.world.size]:
            return super()._tensors(path, record)
        name = f"{path.stem}.rank-{self.world.rank}{TENSORS}"
        return self._verified(name, record["shards"][name])


def _stem(step: int) -> str:
    return f"step-{step:012d}"
