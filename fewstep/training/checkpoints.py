"""Exact checkpoints: safetensors beside JSON, written atomically, verified by hash, the newest two kept."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import DataDiffers
from fewstep.util.files import replacing, sweep
from fewstep.util.hashing import sha256_file

FORMAT = "fewstep-checkpoint/1"
KEEP = 2


@dataclass
class Checkpoint:
    """What stood in a checkpoint: the step that comes next, its record, its tensors."""

    step: int
    record: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one round in `folder`.

    `step-N.safetensors` holds the tensors; `step-N.json`, written last, its hash and the record that makes it valid,
    with a hash of itself.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = warnings.warn):
        self.folder, self.warn = folder, warn

    def save(self, step: int, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Writes a checkpoint; a kill at any instant leaves the former ones valid. Raises DiskFull."""
        weights = self.folder / f"step-{step:012d}.safetensors"
        with replacing(weights) as temporary:
            save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, temporary)
            digest = sha256_file(temporary)
        write_checked(weights.with_suffix(".json"), FORMAT, {"step": step, "sha256": digest, **record})
        for old in self._committed()[:-KEEP]:
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose hash is right, None if there never was one.

        Raises DataDiffers if there are checkpoints but none is whole: a fresh start would lose work in silence.
        """
        sweep(self.folder)
        records = self._committed()
        for path in reversed(records):
            try:
                return self._read(path)
            except (DataDiffers, OSError, ValueError, KeyError, SafetensorError) as error:
                self.warn(f"checkpoint {path.stem} is damaged ({error}); trying the one before")
        if records:
            raise DataDiffers(f"no checkpoint in {self.folder} is whole", hint=f"remove {self.folder} to begin anew")
        orphans = sorted(self.folder.glob("step-*.safetensors")) if self.folder.is_dir() else []
        if len(orphans) > 1:  # a single one may come from a kill before the first record was written
            raise DataDiffers(
                f"{orphans[-1]} has lost its record ({orphans[-1].stem}.json)",
                hint=f"restore it, or remove {self.folder} to begin anew",
            )
        return None

    def _committed(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json")) if self.folder.is_dir() else []

    @staticmethod
    def _read(path: Path) -> Checkpoint:
        record = read_checked(path, FORMAT)
        weights = path.with_suffix(".safetensors")
        if not weights.is_file():
            raise DataDiffers(f"{weights} is missing")
        if sha256_file(weights) != record["sha256"]:
            raise DataDiffers(f"{weights} differs from its hash")
        return Checkpoint(int(record["step"]), record, load_file(weights))
