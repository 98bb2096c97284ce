"""One role's optimiser: fused AdamW or RAdam, learning-rate schedule, clipping, and its state as named tensors."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from fewstep.networks.sharded import here, is_sharded
from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.training.distributed import World
from fewstep.training.gradient_sums import Gradients
from fewstep.training.moments_8bit import adamw_8bit, eagerly, moment_of, parts_of
from fewstep.training.roles.trainable import trained_parameters


def rate(settings: OptimiserSettings, progress: float) -> float:
    """Learning rate over its peak at `progress` in [0, 1] of the round: linear warm-up, then the schedule."""
    if progress < settings.warmup:
        return progress / settings.warmup
    left = (1 - progress) / max(1 - settings.warmup, 1e-12)
    return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[settings.schedule]


class RoleOptimiser:
    """Trains the parameters of one role: its network, but for what it holds, and the heads that share its turn.

    Attributes:
        parameters: as the graph has them. stepped: what is updated of each here: itself, or its rows in this process.
        names: of each.
    """

    def __init__(self, modules: dict[str, nn.Module], settings: OptimiserSettings, lr_scale: float = 1.0):
        self.modules, self.settings, self.peak = modules, settings, settings.lr * lr_scale
        trained = {part: trained_parameters(module) for part, module in modules.items()}
        self.names = [f"{part}.{name}" for part, own in trained.items() for name, _ in own]
        self.parameters = [parameter for own in trained.values() for _, parameter in own]
        self.stepped = [nn.Parameter(here(p), requires_grad=False) if is_sharded(p) else p for p in self.parameters]
        common = {"lr": self.peak, "betas": settings.betas, "weight_decay": settings.weight_decay}
        self.compact = settings.moments == "8bit"
        if self.compact:
            self.optimiser: torch.optim.Optimizer = adamw_8bit(self.stepped, **common)
        elif settings.kind == "adamw":
            self.optimiser = torch.optim.AdamW(self.stepped, fused=True, **common)
        else:
            self.optimiser = torch.optim.RAdam(self.stepped, decoupled_weight_decay=True, foreach=True, **common)

    def train(self, wanted: bool) -> None:
        """Whether the parameters take part in the graph: only in this role's own turn."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    @property
    def everywhere(self) -> list[nn.Parameter]:
        """The parameters that every process holds whole."""
        return [own for own, there in zip(self.stepped, self.parameters, strict=True) if own is there]

    def taken(self) -> Gradients:
        """The gradients that a backward pass has left here, by parameter, which loses them."""
        found = [None if p.grad is None else here(p.grad) for p in self.parameters]
        self.clear()
        return found

    def give(self, gradients: Gradients) -> None:
        """Makes these the gradients of the next `step`."""
        for parameter, gradient in zip(self.stepped, gradients, strict=True):
            parameter.grad = gradient

    def norm(self) -> Tensor:
        """The norm of all gradients of the role's parameters, as one vector; those of rows that lie elsewhere too."""
        everywhere = self.everywhere
        whole = nn.utils.get_total_norm([p.grad for p in everywhere if p.grad is not None])
        if len(everywhere) == len(self.stepped):
            return whole
        kept = {id(parameter) for parameter in everywhere}
        rows = [p.grad for p in self.stepped if p.grad is not None and id(p) not in kept]
        parts = World.current().gathered(nn.utils.get_total_norm(rows).to(self.stepped[0].device))
        return torch.linalg.vector_norm(torch.cat([parts, whole.to(parts)[None]]))

    def step(self, progress: float, norm: Tensor) -> None:
        """One update at this share of the round, from the gradients there are, whose `norm()` this is."""
        if self.settings.clip:
            nn.utils.clip_grads_with_norm_(self.stepped, self.settings.clip, norm)
        now = self.peak * rate(self.settings, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"].fill_(now) if self.compact else now
        with eagerly(self.stepped[0]) if self.compact else nullcontext():
            self.optimiser.step()
        self.clear()

    def begin(self) -> None:
        """Makes the moments, which the first step would: an update of no size."""
        self.give([torch.zeros_like(parameter) for parameter in self.stepped])
        self.step(0.0, self.norm())

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimiser.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments, by parameter and name."""
        return {
            f"{name}/{key}{part}": plain
            for name, parameter in zip(self.names, self.stepped, strict=True)
            for key, value in self.optimiser.state[parameter].items()
            for part, plain in parts_of(value).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the moments of `state()`; raises ValueError if they are not this optimiser's."""
        places = dict(zip(self.names, self.stepped, strict=True))
        found: dict[str, dict[str, dict[str, Tensor]]] = {}
        for full, value in state.items():
            name, _, key = full.rpartition("/")
            key, dot, part = key.partition(".")
            if name not in places or key not in ("exp_avg", "exp_avg_sq", "step"):
                raise ValueError(f"optimiser state '{full}' of shape {tuple(value.shape)} fits no parameter")
            found.setdefault(name, {}).setdefault(key, {})[dot + part] = value
        fused = self.settings.kind == "adamw" and not self.compact
        for name, own in found.items():
            parameter = places[name]
            if own.keys() != {"exp_avg", "exp_avg_sq", "step"}:
                raise ValueError(f"optimiser state of '{name}' is incomplete")
            try:
                moments = {key: moment_of(own[key], parameter, key == "exp_avg") for key in ("exp_avg", "exp_avg_sq")}
            except ValueError as error:
                raise ValueError(f"optimiser state of '{name}' does not fit: {error}") from error
            steps = own["step"][""].to(parameter.device) if fused else own["step"][""].cpu()
            self.optimiser.state[parameter] = {"step": steps, **moments}
