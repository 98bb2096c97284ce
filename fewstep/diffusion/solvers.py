"""Names and cost of the training-free solvers, without torch: for validating settings before any work."""

from __future__ import annotations

from fewstep.diffusion.guidance import Scales, calls
from fewstep.util.config import unknown
from fewstep.util.errors import SettingsError

# our short names for diffusers' scheduler classes
SOLVERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_MORE = ("DEISMultistepScheduler", "EulerAncestralDiscreteScheduler",
         "KDPM2DiscreteScheduler", "LMSDiscreteScheduler")  # fmt: skip
_STOCHASTIC = frozenset({"DDPMScheduler", "EulerAncestralDiscreteScheduler"})
_TWICE = frozenset({"HeunDiscreteScheduler", "KDPM2DiscreteScheduler"})


def solver_names() -> tuple[str, ...]:
    """Every solver, once: our short names, and diffusers' class names where there is none."""
    return (*SOLVERS, *_MORE)


def scheduler_name(solver: str) -> str:
    """The diffusers class of a solver given by short name or by class name. SettingsError names the nearest known."""
    name = SOLVERS.get(solver, solver)
    if name not in SOLVERS.values() and name not in _MORE:
        raise SettingsError(unknown("solver", solver, [*SOLVERS, *_MORE]))
    return name


def is_stochastic(solver: str) -> bool:
    """Whether the solver draws noise on the way, so that its samples are no function of the initial noise."""
    return scheduler_name(solver) in _STOCHASTIC


def network_evaluations(solver: str, steps: int, guidance: Scales = 1.0) -> int:
    """Network evaluations per sample of `steps` steps: 2 steps − 1 for second-order single-step solvers (Heun), else
    steps; under guidance twice that, or more for several scales."""
    if steps < 1:
        raise SettingsError(f"{solver} needs at least one step, got {steps}")
    predictions = 2 * steps - 1 if scheduler_name(solver) in _TWICE else steps
    return predictions * calls(guidance)


def steps_for(solver: str, evaluations: int, guidance: Scales = 1.0) -> int | None:
    """The steps that cost exactly `evaluations`, or None where no number of steps does (Heun at an even number)."""
    steps, rest = divmod(evaluations, calls(guidance))
    if scheduler_name(solver) in _TWICE:
        steps, odd = divmod(steps + 1, 2)
        rest = rest or odd
    return steps if steps >= 1 and not rest else None
