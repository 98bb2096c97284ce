"""Checkpoints of a network along its training: recorded in one round, walked back along in the next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.networks.shared_weights import copied, held_parameters
from fewstep.training.roles.trainable import trained_state
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.training.roles.placement import Placement


class Recorder:
    """Takes down the weights of `network` after equal shares of `steps`, `count` times, the last at the end.

    Raises SettingsError if there are fewer steps than that.
    """

    def __init__(self, network: "Denoiser", count: int, steps: int):
        if count > steps:
            raise SettingsError(f"{count} checkpoints cannot be recorded in {steps} steps; give the round more images")
        self.network = network
        self.marks = [steps * (k + 1) // count for k in range(count)]
        self.taken: list[dict[str, Tensor]] = []

    def after(self, step: int) -> None:
        """Called when `step` steps are done."""
        if step in self.marks:
            self.taken.append({name: value.detach().clone() for name, value in trained_state(self.network).items()})

    def state(self) -> dict[str, Tensor]:
        """What was taken down so far, by number and name."""
        return {f"{k}/{name}": value for k, weights in enumerate(self.taken) for name, value in weights.items()}

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Takes what `state` gave after `step` steps; raises ValueError if it is not all there."""
        wanted, names = sum(mark <= step for mark in self.marks), trained_state(self.network).keys()
        if state.keys() != {f"{k}/{name}" for k in range(wanted) for name in names}:
            raise ValueError(f"of the recorded checkpoints {wanted} should be there")
        device = next(self.network.parameters()).device
        self.taken = [{name: state[f"{k}/{name}"].to(device) for name in names} for k in range(wanted)]

    def networks(self, placement: "Placement") -> list["Denoiser"]:
        """The network as it was at each mark, frozen and given back by what placed it, which has it last."""
        made = []
        for weights in self.taken:
            network = placement.given_back(self.network, weights)
            made.append(copied(network, held_parameters(network)))
        return made


def way_back(recorded: Sequence["Denoiser"], teacher: "Denoiser") -> list["Denoiser"]:
    """The teachers of a round that walks back: the recorded ones but the last, where it starts, then the teacher."""
    return [*reversed(recorded[:-1]), teacher]


def teacher_at(path: Sequence["Denoiser"], progress: float, share: float) -> "Denoiser":
    """The teacher at this share of the round: all but the last in equal parts of its first `share`, then the last."""
    return path[min(int(progress / share * (len(path) - 1)), len(path) - 1)]
