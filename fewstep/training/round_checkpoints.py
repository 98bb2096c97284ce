"""Checkpoints of a round: its state, the settings and data that it belongs to, the machines that it ran on."""

from typing import Any

from fewstep.training.checkpoints import Checkpoints
from fewstep.training.digests import differences
from fewstep.training.loss_meter import Figures
from fewstep.training.round_state import RoundState
from fewstep.training.run_options import RunOptions
from fewstep.util.errors import DataDiffers, SettingsError


class RoundCheckpoints:
    """Saves and continues the round `where` in `options.folder`; does nothing without a folder.

    Args:
        identity: what the round trains and on what; a checkpoint of another identity cannot be continued.
        fingerprint: what the bits depend on besides; another one is continued with a warning, and recorded.
    """

    def __init__(self, where: str, options: RunOptions, identity: dict[str, Any], fingerprint: dict[str, str]):
        self.where, self.identity, self._warn = where, identity, options.warn
        self._fingerprints = [fingerprint]
        self._files = None if options.folder is None else Checkpoints(options.folder, options.warn)

    def save(self, state: RoundState, step: int, figures: Figures, done: bool) -> None:
        """Writes the state before `step` and the figures that no report has had; `done`: whether the round ends here.
        """
        if self._files is not None:
            record = {"identity": self.identity, "fingerprints": self._fingerprints, "done": done,
                      "figures": figures.sums()}  # fmt: skip
            self._files.save(step, record, state.tensors())

    def resume(self, state: RoundState, figures: Figures) -> int:
        """Brings `state` and `figures` to the newest checkpoint; returns the step that comes next, 0 where there is
        none.

        Raises SettingsError for a checkpoint of another identity, DataDiffers for one that is damaged or incomplete.
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
        earlier = found.record["fingerprints"]
        if earlier[-1] != self._fingerprints[0]:
            changed = "; ".join(differences(earlier[-1], self._fingerprints[0]))
            self._warn(f"{self.where} continues on another machine or library, not bit for bit the same: {changed}")
            self._fingerprints = [*earlier, *self._fingerprints]
        else:
            self._fingerprints = earlier
        try:
            state.load(found.tensors, found.step)
            figures.load(found.record.get("figures", {}))
        except ValueError as error:
            raise DataDiffers(f"{self.where}: checkpoint of step {found.step} does not fit: {error}") from error
        return found.step
