"""The consistency loss over any choice of points, levels, targets and places of comparison."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.objectives.common.compared_states import Compared, ComparesStates
from fewstep.objectives.common.distances import pseudo_huber, squared
from fewstep.objectives.consistency.level_pairs import between, cells, pair
from fewstep.objectives.consistency.point_pairs import Pair, noised, stored
from fewstep.objectives.consistency.settings import ConsistencySettings
from fewstep.objectives.consistency.states import State, chosen, predict, towards
from fewstep.objectives.term import Loss, Term
from fewstep.objectives.term_settings import START

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.training.step.step_context import Step

CLEAN = 0.002
"""A destination below this noise ratio is clean data."""


class Consistency(Term[ConsistencySettings], ComparesStates):
    """L = E w d(G(x_t, t), sg G'(x_r, r)), x_t and x_r two points of one path, r the nearer to the data.

    Song et al., Consistency Models (2303.01469), eq. 7 and 10. G' is the student itself or its moving average. Where
    x_r lies at the place of comparison it is its own target, so no parametrisation has to hold the boundary condition.
    To the edge e of a phase, or to any level, G is the straight step x0 + nu_e epsilon from the network's prediction
    (Wang et al., Phased Consistency Models, 2405.18407, eq. 6; Kim et al., Consistency Trajectory Models, 2310.02279,
    eq. 5), compared at unit variance. Points and noise levels are those of x / alpha and nu = sigma / alpha, so that a
    formula of the variance-exploding process holds in any process.
    """


    def target_decay(self, progress: float) -> float | None:
        s = self.settings
        if s.target_ema is None or not s.target_ema_grows:
            return s.target_ema
        levels = s.points.levels
        return s.target_ema ** (levels.first / cells(levels, progress))

    def loss(self, step: "Step") -> Loss:
        s = self.settings
        points, _, joint = step.once(("points", id(self)), lambda: self._points(step))
        distance = self._distance(*self.compared(step)[:2])
        gap = points.far.nu - points.near.nu
        weight = 1 / gap.masked_fill(joint, 1.0) if s.weighting == "inverse_gap" else torch.ones_like(gap)
        if s.truncation is not None:
            weight = weight.masked_fill(joint, s.truncation.boundary_weight)
        return (weight * distance).mean(), {"gap": (gap / points.far.nu).mean().detach()}

    def compared(self, step: "Step") -> Compared:
        def make() -> Compared:
            points, edge, _ = step.once(("points", id(self)), lambda: self._points(step))
            with torch.set_grad_enabled(step.role == "student"):
                found = self._at(step, step.student, points.far, edge, points.scale)
            with torch.no_grad():
                target = self._target(step, points, edge)
            return found, target, torch.zeros_like(edge) if self.settings.carry else edge

        return step.once(("compared", id(self)), make)

    def _points(self, step: "Step") -> tuple[Pair, Tensor, Tensor]:
        """The pair; noise ratios (N,) where predictions are compared; rows (N,) that hold the student to its past."""
        points, cut = self.settings.points, self.settings.truncation
        if points.kind == "trajectory":
            found = stored(step, points)
            nothing = torch.zeros_like(found.far.nu)
            return found, nothing, nothing.bool()
        nu, nu_near = pair(step, points.levels)
        joint = torch.zeros_like(nu, dtype=torch.bool)
        if cut is not None:  # Lee et al., Truncated Consistency Models (2410.14895), eq. 9
            joint = (step.draws.uniform("boundary") < cut.boundary_share) | (nu <= cut.at)
            nu, nu_near = nu.masked_fill(joint, cut.at), nu_near.masked_fill(joint, cut.at)
        edge = torch.zeros_like(nu)
        if self.settings.to == "phase":
            edge = phase_edge(step, nu)
            nu_near = torch.maximum(nu_near, edge)
        elif self.settings.to == "any":
            edge = between(nu_near, 0.0, step.draws.uniform("destination"))
            edge = edge.masked_fill(edge < CLEAN, 0.0)
        return noised(step, points, nu, nu_near), edge, joint

    def _target(self, step: "Step", points: Pair, edge: Tensor) -> Tensor:
        near = points.near
        there = near.nu <= edge
        arrived = there.device.type == "cpu" and bool(there.all())  # elsewhere looking costs more than a call
        if not step.setup.asked(not arrived):
            return near.unit
        network = step.networks["target"] if self.settings.target_ema is not None else step.student
        found = self._at(step, network, near, edge, points.scale)
        cut = self.settings.truncation
        if cut is not None:
            below = near.nu <= cut.at * (1 + 1e-6)
            found = chosen(below, self._at(step, step.networks[START], near, edge, points.scale), found)
        own = near.unit if not self.settings.carry else self._carried(step, near, points.scale)
        return near.unit if arrived else chosen(there, own, found)

    def _at(self, step: "Step", network: "Denoiser", state: State, edge: Tensor, scale: Tensor | None) -> Tensor:
        """The network's map of `state` to the levels `edge` (N,), where it is compared: (N, ...)."""
        inputs = _scaled(scale)
        if self.settings.to == "any":
            inputs["second"] = step.levels.arrival_time(edge)
        arrived = towards(predict(step, network, state, **inputs), edge)
        return self._carried(step, arrived, scale) if self.settings.carry else arrived.unit

    def _carried(self, step: "Step", state: State, scale: Tensor | None) -> Tensor:
        """`state` taken to clean data by the target network, whose weights get no gradient."""
        return chosen(state.nu > 0, predict(step, step.networks["target"], state, **_scaled(scale)).x0, state.x)

    def _distance(self, found: Tensor, target: Tensor) -> Tensor:
        if self.settings.distance == "l2":
            return squared(found, target)
        return pseudo_huber(found, target, self.settings.huber)


def _scaled(scale: Tensor | None) -> dict[str, Tensor]:
    return {} if scale is None else {"scale": scale}


def phase_edge(step: "Step", nu: Tensor) -> Tensor:
    """The lower end of the phase that each level lies in: the student's next step, 0 after its last; (N,) -> (N,)."""
    ends = nu.new_tensor([*map(step.levels.ratio_at, step.grid[1:]), 0.0])
    below = ends[None] < nu[:, None] * (1 - 1e-6)
    return torch.where(below, ends[None], nu.new_full((), -math.inf)).amax(1)
