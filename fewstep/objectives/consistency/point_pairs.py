"""Where the two points of a pair come from: one sample noised twice, a step of the teacher, a stored trajectory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_levels import unit_scale
from fewstep.diffusion.processes import like
from fewstep.objectives.consistency.level_pairs import between
from fewstep.objectives.consistency.settings import DataPoints, TeacherPoints, TrajectoryPoints
from fewstep.objectives.consistency.states import State, chosen, predict, towards
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.training.step.step_context import Step


@dataclass(frozen=True)
class Pair:
    """The farther and the nearer point of one path; `scale`: guidance scale (N,) that the path belongs to, if any."""

    far: State
    near: State
    scale: Tensor | None = None


def noised(step: "Step", points: DataPoints | TeacherPoints, nu: Tensor, nu_near: Tensor) -> Pair:
    """A pair that begins at noised data."""
    x0, noise = step.batch.data, step.draws.normal("noise", like=step.batch.data)
    far = State.noised(x0, noise, nu)
    if points.kind == "data":
        return Pair(far, State.noised(x0, noise, nu_near))
    guidance = step.batch.guidance(points.guidance)
    near = far
    with torch.no_grad():
        for k in range(points.substeps):
            level = nu_near if k + 1 == points.substeps else between(nu, nu_near, (k + 1) / points.substeps)
            near = solver_step(step, step.networks["teacher"], near, level, points, guidance, f"churn/{k}")
    return Pair(far, near, step.batch.scale)


def solver_step(
    step: "Step", teacher: "Denoiser", state: State, nu: Tensor, points: TeacherPoints, guidance: Scales | Tensor,
    name: str,
) -> State:  # fmt: skip
    """One step of the teacher from `state` to the lower levels nu' (N,), which may be 0.

    ddim: x + (nu' - nu) e with e = epsilon(x, nu). heun: e is the mean of that and of epsilon where ddim leads, save in
    a step to clean data (Karras et al., 2206.00364, algorithm 1). With churn c: x - nu e + sqrt(nu'^2 - s^2) e + s z,
    s = c nu' sqrt(1 - nu'^2 / nu^2), for c = 1 ancestral sampling (Song et al., 2010.02502, eq. 12 and 16).

    Churn is SCott's (2403.01505), derived from its abstract (consistency along an SDE solver of the teacher, the
    strength of its noise controlled): every c keeps the marginals, since s^2 of new variance stands for s^2 taken from
    the direction's. Given x the near point is now random, so the squared distance's optimum is the mean of its targets
    over z: the ODE's end for c = 0, and for larger c ever more of E[x0 | x], which is why c is well below 1.
    """
    first = predict(step, teacher, state, guidance=guidance)
    x0, direction = first.x0, first.epsilon
    if points.solver == "heun":
        second = predict(step, teacher, towards(first, nu), guidance=guidance).epsilon
        direction = torch.where(like(nu, x0) > 0, (first.epsilon + second) / 2, first.epsilon)
        x0 = x0 + like(state.nu, x0) * (first.epsilon - direction)
    if not points.churn:
        return State.noised(x0, direction, nu)
    fresh = points.churn * nu * (1 - (nu / state.nu).square()).clamp_min(0).sqrt()
    kept = State.noised(x0, direction, (nu.square() - fresh.square()).sqrt()).x
    return State(kept + like(fresh, x0) * step.draws.normal(name, like=x0), nu)


def stored(step: "Step", points: TrajectoryPoints) -> Pair:
    """Two states of one stored trajectory, the end of which is the last.

    Single-trajectory distillation (STD, 2412.18945), derived from its abstract (the whole trajectory from one start is
    consistent; a bank keeps trajectories): consistency pairs noise data anew, so that x_t and x_r lie on a path of the
    teacher's only to a solver step's error, and x_t has the data's distribution. States of one stored solve have
    neither fault: any two of them have the same end, and they are where a sampler passes. `reach`: how many states the
    near one is ahead at most; along one solve a longer reach costs no accuracy.
    """
    count = stored_count(step)
    first = step.draws.integers("state", count)
    second = first + 1 + (step.draws.integers("reach", points.reach) if points.reach > 1 else 0)
    ended = second >= count
    near = stored_state(step, second.clamp_max(count - 1))
    end = State(chosen(ended, step.batch.pair["x"], near.x), near.nu.masked_fill(ended, 0.0))
    return Pair(stored_state(step, first), end)


def stored_count(step: "Step") -> int:
    """States per stored trajectory. Raises SettingsError if there are none."""
    states = step.batch.pair.get("states")
    if states is None or step.batch.pair.get("times") is None:
        raise SettingsError("consistency on trajectories needs a set with states (trajectories.keep)")
    return states.shape[1]


def stored_state(step: "Step", index: Tensor) -> State:
    """The stored states of these numbers (N,); noise beyond the student's start counts as lying there."""
    x, t = step.batch.pair["states"][step.draws.rows, index], step.batch.pair["times"][index].double()
    nu = step.levels.ratio(t).clamp_max(step.levels.start)
    return State(x * like(unit_scale(nu) / step.student.process.scale(t), x), nu)
