"""Copies of the student that a round keeps beside it: `target`, its moving average, and `start`, as the round began."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.networks.brought_weights import bring_when_called
from fewstep.networks.shared_weights import copied, held_parameters
from fewstep.objectives.term import Term
from fewstep.objectives.term_settings import START
from fewstep.training.roles.ema import Average
from fewstep.training.roles.trainable import trained_state
from fewstep.util.device import device_of
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser


class Copies:
    """The frozen copies that the terms of a round ask for, by role in `networks`.

    `start` needs no checkpoint: it is the student that the round is given, whose digest every checkpoint names.
    `target` is checkpointed. `apart`: their weights lie on the CPU and come to the device layer by layer as they are
    called. Raises SettingsError if two terms ask for different targets.
    """

    def __init__(self, student: "Denoiser", terms: Sequence[Term], apart: bool = False):
        self.networks: dict[str, Denoiser] = {}
        self._asking = [term for term in terms if term.target_decay(0.0) is not None]
        self._student, self._apart = student, apart
        if any(START in term.settings.frozen for term in terms):
            self.networks[START] = copied(student, held_parameters(student)).requires_grad_(False)
        if self._asking:
            self.networks["target"] = copied(student, held_parameters(student)).requires_grad_(False)
        if apart:
            device = device_of(student)
            for network in self.networks.values():
                bring_when_called(network, device, held_parameters(student))
        if self._asking:
            self._decay(0.0)

    @cached_property
    def _average(self) -> Average | None:
        """What keeps the target: made once all networks lie where they are computed with, in shards perhaps."""
        if not self._asking:
            return None
        return Average(self._student, 0.0, into=trained_state(self.networks["target"]), apart=self._apart)

    def update(self, progress: float) -> None:
        """Takes in the student's weights after its update at this share of the round."""
        if self._average is not None:
            self._average.mix(self._decay(progress))

    def state(self) -> dict[str, Tensor]:
        """The target's weights, by name; empty where there is none."""
        return {} if self._average is None else self._average.weights

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave; raises ValueError if it is not of this network."""
        if self._average is not None:
            self._average.load(state)
        elif state:
            raise ValueError("there are weights of a target, which no term asks for")

    def _decay(self, progress: float) -> float:
        decays = {term.target_decay(progress) for term in self._asking}
        if len(decays) > 1:
            raise SettingsError(f"the terms of a round share one target, but ask for decays {sorted(decays)}")
        return decays.pop()
