"""One role's optimiser: fused AdamW or RAdam, learning-rate schedule, clipping, and its state as named tensors."""

import math

import torch
from torch import Tensor, nn

from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.training.roles.trainable import trained_parameters


def rate(settings: OptimiserSettings, progress: float) -> float:
    """Learning rate over its peak at `progress` in [0, 1] of the round: linear warm-up, then the schedule."""
    if progress < settings.warmup:
        return progress / settings.warmup
    left = (1 - progress) / max(1 - settings.warmup, 1e-12)
    return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[settings.schedule]


class RoleOptimiser:
    """Trains the parameters of one role: its network, but for what it holds, and the heads that share its turn."""

    def __init__(self, modules: dict[str, nn.Module], settings: OptimiserSettings, lr_scale: float = 1.0):
        self.modules, self.settings, self.peak = modules, settings, settings.lr * lr_scale
        trained = {part: trained_parameters(module) for part, module in modules.items()}
        self.names = [f"{part}.{name}" for part, own in trained.items() for name, _ in own]
        self.parameters = [parameter for own in trained.values() for _, parameter in own]
        common = {"lr": self.peak, "betas": settings.betas, "weight_decay": settings.weight_decay}
        if settings.kind == "adamw":
            self.optimiser = torch.optim.AdamW(self.parameters, fused=True, **common)
        else:
            self.optimiser = torch.optim.RAdam(self.parameters, decoupled_weight_decay=True, foreach=True, **common)

    def train(self, wanted: bool) -> None:
        """Whether the parameters take part in the graph: only in this role's own turn."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    def norm(self) -> Tensor:
        """The norm of all gradients of the role's parameters, as one vector."""
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def step(self, progress: float, norm: Tensor) -> None:
        """One update at this share of the round, from the gradients there are, whose `norm()` this is."""
        if self.settings.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * rate(self.settings, progress)
        self.optimiser.step()
        self.clear()

    def begin(self) -> None:
        """Makes the moments, which the first step would: an update of no size."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.step(0.0, self.norm())

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments, by parameter and name."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for key, value in self.optimiser.state[parameter].items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the moments of `state()`; raises ValueError if they are not this optimiser's."""
        keys = {"exp_avg", "exp_avg_sq", "step"}
        places = dict(zip(self.names, self.parameters, strict=True))
        for full, value in state.items():
            name, _, key = full.rpartition("/")
            if name not in places or key not in keys or (key != "step" and value.shape != places[name].shape):
                raise ValueError(f"optimiser state '{full}' of shape {tuple(value.shape)} fits no parameter")
        for name, parameter in places.items():
            own = {key: state[f"{name}/{key}"] for key in keys if f"{name}/{key}" in state}
            if own and own.keys() != keys:
                raise ValueError(f"optimiser state of '{name}' is incomplete")
            if own:
                steps = own["step"].cpu() if self.settings.kind == "radam" else own["step"].to(parameter.device)
                moments = {key: own[key].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[parameter] = {"step": steps, **moments}
