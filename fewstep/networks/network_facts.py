"""What is known of a teacher's network before it is loaded, and decides which recipes it can serve."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.extra_inputs import embeds_scale
from fewstep.util.errors import SettingsError


@dataclass(frozen=True)
class NetworkFacts:
    """A network, which may be without weights (on meta), and what it is given.

    prompts: whether its conditions are rows of a table of tensors, in place of classes. classes: whether it has any.
    scale: whether it embeds the guidance scale by itself. sizes: how many sizes of samples it is trained on.
    """

    network: nn.Module
    prompts: bool
    classes: bool
    scale: bool
    sizes: int = 1

    def require_one_size(self, what: str) -> None:
        """Raises SettingsError, naming `what` is made for samples of one size, where there are several."""
        if self.sizes > 1:
            raise SettingsError(f"{what} is made for samples of one size, and data.sizes has {self.sizes}",
                                hint="set data.size, or data.sizes to one of them")  # fmt: skip

    @property
    def kind(self) -> str:
        """The network's class."""
        return type(self.network).__name__

    @staticmethod
    def of(denoiser: Denoiser) -> NetworkFacts:
        """Those of a denoiser."""
        fields = getattr(denoiser.family, "fields", None)
        prompts = denoiser.table is not None or bool(fields)
        return NetworkFacts(denoiser.network, prompts, denoiser.num_classes > 0 and not prompts, embeds_scale(denoiser),
                            1 + len(getattr(denoiser.family, "sizes", ())))  # fmt: skip
