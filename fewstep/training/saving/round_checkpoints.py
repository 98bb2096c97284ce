"""Checkpoints of a round: its state, the settings and data that it belongs to, the machines that it ran on."""

from typing import Any

from torch import Tensor

from fewstep.networks.sharded import rows_of
from fewstep.training.digests import differences
from fewstep.training.distributed import World
from fewstep.training.loss_meter import Figures
from fewstep.training.round_state import RoundState
from fewstep.training.run_options import RunOptions
from fewstep.training.saving.checkpoints import ROWS, WHOLE, Checkpoint, Checkpoints, ShardedCheckpoints
from fewstep.util.errors import DataDiffers, SettingsError


class RoundCheckpoints:
    """Saves and continues the round `where` in `options.folder`; does nothing without a folder.

    As a context: what is written in a thread is whole when the block ends, unless an interrupt ends it, which waits for
    nothing.

    Args:
        identity: what the round trains and on what; a checkpoint of another identity cannot be continued.
        fingerprint: what the bits depend on besides; another one is continued with a warning, and recorded.
        world: processes that hold rows of the state each; None: it is whole here.
    """

    def __init__(self, where: str, options: RunOptions, identity: dict[str, Any], fingerprint: dict[str, Any],
                 world: World | None = None):  # fmt: skip
        self.where, self.identity, self._warn, self._reshard = where, identity, options.warn, options.reshard
        self._fingerprints, self._world = [fingerprint], world
        self._files: Checkpoints | None = None
        if options.folder is not None:
            self._files = (Checkpoints(options.folder, options.warn) if world is None
                           else ShardedCheckpoints(options.folder, world, options.warn))  # fmt: skip

    def __enter__(self) -> "RoundCheckpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._files is not None and (kind is None or issubclass(kind, Exception)):
            self._files.behind.join()

    def save(self, state: RoundState, step: int, figures: Figures, done: bool, behind: bool = False) -> None:
        """Writes the state before `step` and the figures that no report has had.

        done: whether the round ends here. behind: whether a thread writes a copy of it while the caller goes on.
        Raises DiskFull, and what such a thread met before.
        """
        if self._files is None:
            return
        tensors = state.tensors()
        record = {"identity": self.identity, "fingerprints": self._fingerprints, "done": done,
                  "figures": figures.sums()}  # fmt: skip
        if self._world is not None:
            rows = state.sharded()
            record["placements"] = {name: ROWS if name in rows else WHOLE for name in tensors}
        (self._files.save_behind if behind else self._files.save)(step, record, tensors)

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._files is not None and self._files.behind.busy

    def check(self) -> None:
        """Raises what the last one met in its thread; waits for none."""
        if self._files is not None:
            self._files.behind.check()

    def wait(self) -> None:
        """Waits for the one that is being written. Raises what it met."""
        if self._files is not None:
            self._files.behind.wait()

    def resume(self, state: RoundState, figures: Figures) -> int:
        """Brings `state` and `figures` to the newest checkpoint; returns the step that comes next, 0 where there is
        none.

        A round that is done is read by any number of processes. Raises SettingsError for a checkpoint of another
        identity, or of a round under way whose state lies in other shards, unless `options.reshard`; DataDiffers for
        one that is damaged or incomplete.
        """
        found = None if self._files is None else self._files.latest()
        if found is None:
            return 0
        other = differences(found.record.get("identity", {}), self.identity)
        if other:
            raise SettingsError(
                f"{self.where}: the checkpoint in {self._files.folder} is of other settings: {'; '.join(other[:3])}",
                hint="restore the settings, or remove the folder to begin anew",
            )
        tensors = self._fitting(found, state)
        earlier = found.record["fingerprints"]
        if found.record["done"] or earlier[-1] == self._fingerprints[0]:
            self._fingerprints = earlier
        else:
            changed = "; ".join(differences(earlier[-1], self._fingerprints[0]))
            self._warn(f"{self.where} continues on another machine or library, not bit for bit the same: {changed}")
            self._fingerprints = [*earlier, *self._fingerprints]
        try:
            state.load(tensors, found.step, moments=not found.record["done"])
            figures.load(found.record.get("figures", {}))
        except ValueError as error:
            raise DataDiffers(f"{self.where}: checkpoint of step {found.step} does not fit: {error}") from error
        return found.step

    def _fitting(self, found: Checkpoint, state: RoundState) -> dict[str, Tensor]:
        """The checkpoint's tensors as they are held here."""
        there, own = found.record.get("mesh", [1])[0], 1 if self._world is None else self._world.size
        if there == own:
            return found.tensors
        if not found.record["done"]:
            was = "one process" if there == 1 else f"{there} processes that hold rows of every tensor each"
            now = "this one holds all" if own == 1 else f"of {own} processes each is to hold its rows"
            said = f"{self.where}: the checkpoint in {self._files.folder} is of {was}, and {now}"
            if state.compact:
                raise SettingsError(f"{said}; moments in 8 bits cannot be laid out anew",
                                    hint=f"set compute.processes: {there} to continue, or remove the folder to begin "
                                         "anew")  # fmt: skip
            if not self._reshard:
                raise SettingsError(
                    said,
                    hint=f"set compute.parallel: {'replicate' if there == 1 else 'shard'}, compute.processes: {there} "
                    "to continue, or compute.reshard: true (--reshard) to continue in other bits, or remove the folder "
                    "to begin anew",
                )
            self._warn(f"{said}; it is laid out anew, as compute.reshard says: from step {found.step} on the bits are "
                       "not those of a training that stays with either")
        tensors = found.tensors
        if state.compact:   # of a round that is done: nobody takes its moments up again
            tensors = {name: value for name, value in tensors.items() if not name.startswith("optimiser/")}
        if own == 1:
            return tensors
        rows = state.sharded()
        return {name: rows_of(value, self._world.rank, own) if name in rows else value
                for name, value in tensors.items()}  # fmt: skip
