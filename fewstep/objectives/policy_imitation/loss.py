"""Policy imitation: one network call gives a whole piece of a path, judged by the teacher's velocities along it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.made_of_tensors import as_double
from fewstep.networks.block_features import watched_inputs
from fewstep.networks.network_blocks import last_layer
from fewstep.networks.output_layers import side_outputs
from fewstep.objectives.common.distances import per_sample, squared
from fewstep.objectives.common.flow_coordinates import flow_time
from fewstep.objectives.policy_imitation.settings import PolicyImitationSettings
from fewstep.objectives.term import Loss, Term
from fewstep.util.device import sent

if TYPE_CHECKING:
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step


@dataclass(frozen=True)
class Places:
    """Flow times u (N,) along a policy with what is computed of them alone, in the states' type: `share` u / start
    (N,), `weights` and `hats` (N, K)."""

    u: Tensor
    share: Tensor
    weights: Tensor
    hats: Tensor

    def chunk(self, count: int) -> list["Places"]:
        """In `count` equal parts."""
        return [Places(*each) for each in zip(*(one.chunk(count) for one in vars(self).values()), strict=True)]


@dataclass(frozen=True)
class Policy:
    """A path from y (N, ...) at flow time `start` to `end` < start with dy/du = (y - x(u)) / u and no network.

    x(u) interpolates linearly between `anchors` (N, K, ...), predictions of x0 at K flow times evenly from start to
    end: the DX policy of pi-Flow (Chen et al., 2510.14974, section 3.2).
    """

    y: Tensor
    anchors: Tensor
    start: float
    end: float

    def places(self, u: Tensor) -> Places:
        """Flow times u (N,), 0 < u <= start, float64, prepared for the methods below."""
        piece = u, self.start, self.end, self.anchors.shape[1]
        return Places(*(one.to(self.y.dtype) for one in (u, u / self.start, weights(*piece), hats(*piece))))

    def prediction(self, at: Places) -> Tensor:
        """x(u) (N, ...)."""
        return _mixed(self.anchors, at.hats)

    def state(self, at: Places) -> Tensor:
        """y (N, ...): y_u = (u / start) y + sum_k w_k(u) x_k, see `weights`."""
        return per_sample(at.share, self.y) * self.y + _mixed(self.anchors, at.weights)

    def velocity(self, at: Places, y: Tensor) -> Tensor:
        """(y - x(u)) / u, (N, ...)."""
        return (y - self.prediction(at)) / per_sample(at.u, y)


def hats(u: Tensor, start: float, end: float, count: int) -> Tensor:
    """(N, K) float64: each anchor's part in x(u), 1 at its own flow time and 0 at the others'."""
    place = (start - u.double()) / (start - end) * (count - 1)
    return (1 - (place[:, None] - torch.arange(count, device=u.device)).abs()).clamp_min(0)


def weights(u: Tensor, start: float, end: float, count: int) -> Tensor:
    """(N, K) float64: w_k(u) = u * integral from u to start of hat_k(s) / s^2 ds, whose sum is 1 - u / start.

    The solution of dy/ds = (y - x(s)) / s, that is d(y / s)/ds = -x(s) / s^2, in closed form: over a piece between
    anchors at p > q, down to l = max(u, q), the integral of (s - q) / s^2 is log(p / l) - q (1/l - 1/p), and that of
    (p - s) / s^2 is p (1/l - 1/p) - log(p / l).
    """
    u = u.double()
    places = torch.linspace(start, end, count, dtype=torch.float64, device=u.device)
    upper, lower = places[:-1], places[1:]
    least = torch.maximum(u[:, None], lower).minimum(upper)  # an empty piece where the path ends before it
    log, inverse = (upper / least).log(), 1 / least - 1 / upper
    gap = upper - lower
    above, below = (log - lower * inverse) / gap, (upper * inverse - log) / gap
    nothing = torch.zeros_like(u)[:, None]
    return u[:, None] * (torch.cat([above, nothing], 1) + torch.cat([nothing, below], 1))


def mean_weights(start: float, end: float, count: int) -> Tensor:
    """(K,) float64, sum 1: the mean of the anchors whose single step from start to end lands where the policy does.

    y_end = (end / start) y + (1 - end / start) x with x = sum_k w_k(end) x_k / (1 - end / start): a DDIM step. At
    end = 0 that is the last anchor.
    """
    if end == 0:
        return torch.eye(count, dtype=torch.float64)[-1]
    return weights(torch.tensor([end], dtype=torch.float64), start, end, count)[0] / (1 - end / start)


class PolicyImitation(Term[PolicyImitationSettings]):
    """L = E |pi(y_u, u) - v_teacher(y_u, u)|^2 at states y_u of the policy's own detached path.

    Chen et al., pi-Flow: Policy-Based Few-Step Generation via Imitation Distillation (2510.14974), in flow
    coordinates. A difference of velocities is that of the predictions of x0 over u, so theirs, compared as they are,
    is the same loss by the weight u^2: early on the teacher's velocity at small u only points to the mode that the
    path has come to, and by 1 / u^2 that outweighs the levels at which modes are chosen.

    Anchors are the student's own prediction x plus deviations whose `mean_weights` mean is removed, so that the policy
    ends exactly where a DDIM step with x does: a student is sampled and exported as any other, and what gives the
    deviations, a layer beside the network's last one, serves training only. The path is solved in closed form instead
    of by 128 Euler steps; there are no teacher steps mixed into it.
    """


    def require(self, facts: "NetworkFacts") -> None:
        last_layer(facts.network)
        facts.require_one_size("the layer that gives a policy's deviations")

    def prepare(self, step: "Step", seed: int) -> None:
        start = step.shared.start(step.draws.normal("generator"))
        example = (start, step.draws.full(step.grid[0]), step.batch.condition)
        self.heads = {"student": side_outputs(step.student, self.settings.anchors, example)}

    def loss(self, step: "Step") -> Loss:
        s, process = self.settings, step.student.process
        policy = self._policy(step)
        detached = Policy(policy.y, policy.anchors.detach(), policy.start, policy.end)
        total, low = torch.zeros((), device=policy.y.device), max(policy.end, s.least)
        share = torch.cat([step.draws.uniform(f"policy/{k}") for k in range(s.states)])
        times = step.levels.of_flow_time(low + (policy.start - low) * share)
        scales = (process.alpha(as_double(times)) + process.sigma(as_double(times))).to(policy.y.dtype)
        places = policy.places(flow_time(process, times)).chunk(s.states)
        for t, at, scale in zip(times.chunk(s.states), places, scales.chunk(s.states), strict=True):
            y = detached.state(at)
            x = per_sample(scale, y) * y
            with torch.no_grad():
                teacher = step.networks["teacher"].predict(x, t, step.batch.condition, s.guidance)
            if s.compared == "x0":
                total = total + squared(policy.prediction(at), teacher.x0).mean()
            else:
                total = total + squared(policy.velocity(at, y), teacher.as_type("flow_prediction")).mean()
        return total / s.states, {"deviation": _deviation(detached)}

    def _policy(self, step: "Step") -> Policy:
        """The policy of one of the student's steps, from its own state there."""
        s, student = self.settings, step.student
        number, x = step.shared.exit, step.shared.exit_state
        t = step.draws.full(step.grid[number])
        here = torch.full((1,), step.grid[number]).double()     # not on the device, where reading it would wait
        start = float(flow_time(student.process, here))
        end = 0.0
        if number + 1 < len(step.grid):
            end = float(flow_time(student.process, torch.tensor([step.grid[number + 1]], dtype=torch.float64)))
        with watched_inputs([last_layer(student.network)]) as inner:
            mean = student.predict(x, t, step.batch.condition).x0
        deviations = self.heads["student"](inner[0]).to(mean.dtype)
        if s.dropout:
            kept = (step.draws.uniform("policy-dropout") >= s.dropout).to(mean.dtype)
            deviations = deviations * per_sample(kept, deviations)
        centre = sent(mean_weights(start, end, s.anchors), mean.device).expand(len(x), -1)
        anchors = mean[:, None] + deviations - _mixed(deviations, centre)[:, None]
        total = student.process.alpha(here) + student.process.sigma(here)
        return Policy(x / float(total), anchors, start, end)


def _mixed(anchors: Tensor, parts: Tensor) -> Tensor:
    """sum over k of parts (N, K) times anchors (N, K, ...): (N, ...)."""
    return (parts.to(anchors.dtype).reshape(*parts.shape, *[1] * (anchors.ndim - 2)) * anchors).sum(1)


def _deviation(policy: Policy) -> Tensor:
    return (policy.anchors - policy.anchors.mean(1, keepdim=True)).square().mean().sqrt()
