"""Mean velocity: a network of two times learns the displacement of the flow between them over their distance."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.prediction import to_epsilon, to_x0
from fewstep.diffusion.processes import like
from fewstep.networks.block_features import predict_with_features
from fewstep.networks.network_blocks import blocks
from fewstep.objectives.common.derivatives import jvp
from fewstep.objectives.common.dispersion import dispersion
from fewstep.objectives.common.distances import per_sample, squared
from fewstep.objectives.common.flow_coordinates import flow_time, tangent
from fewstep.objectives.mean_velocity.settings import MeanVelocitySettings
from fewstep.objectives.term import Loss, Term
from fewstep.util.device import sent

if TYPE_CHECKING:
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step


def from_derivative(velocity: Tensor, derivative: Tensor, gap: Tensor) -> Tensor:
    """v - (u - r) dU/du (Geng et al., 2505.13447, eq. 6): what the mean velocity U is over an interval of length `gap`.

    From (u - r) U(y_u, r, u) = integral of v from r to u, by d/du. velocity, derivative: (N, ...); gap: (N,).
    """
    return velocity - per_sample(gap, velocity) * derivative


def from_parts(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """share U(y_u, s, u) + (1 - share) U(y_s, r, s), share = (u - s) / (u - r): the integral is additive.

    Guo et al., SplitMeanFlow, 2507.16884, eq. 5; at share 1/2 the self-consistency of shortcut models (Frans et al.,
    2410.12557, eq. 4). first, second: (N, ...); share (N,).
    """
    return second + per_sample(share, first) * (first - second)


def adaptive(error: Tensor, power: float | Tensor, offset: float) -> Tensor:
    """error / sg(error + offset)^power (Geng et al., 2505.13447, eq. 22): (N,) -> (N,); power a number or (N,)."""
    return error / (error.detach() + offset) ** power


class MeanVelocity(Term[MeanVelocitySettings]):
    """L = E |U(y_u, r, u) - sg target|^2 in flow coordinates, where U is what the student's output is read as.

    target: the flow's velocity where the interval [r, u] is a point; over others `from_derivative` or `from_parts` of
    the student's own U. The derivative is along (v, 0, 1) in (y, r, u): v is the velocity of the point's own data
    and noise, whose mean given y is the flow's (the target is linear in it), or the student's own U(y_u, u, u) (Geng et
    al., 2512.02012). It is a forward derivative, or a central difference, which is biased by its width squared.

    The adaptive weight (power > 0) of a target with noise correlates with that noise, which in few dimensions draws the
    optimum from the mean velocity towards its mode. It is harmless over intervals if their velocity has no noise: the
    teacher's, or the student's own.

    By the derivative an error e of U over [r, u], g = u - r, is moved by -(e + g De), D along the flow. With w the
    density of the starts u that lead to one r, <e, e + g De> = int (w - g w')/2 E|e|^2 du + g w E|e|^2 / 2 at the last
    u: whatever e is, it shrinks only where w grows no faster than the gap. A share of the batch at one end r (`clean`)
    keeps that, one at a single start u (`whole`) does not: nothing then bounds the slope of e there, and in practice
    training diverged.

    Dispersion is of one block a step, drawn at random: in expectation the mean over all, at a fraction of the cost.
    """


    def require(self, facts: "NetworkFacts") -> None:
        if self.settings.dispersion:
            blocks(facts.network)

    def loss(self, step: "Step") -> Loss:
        s, student = self.settings, step.student
        x0, noise = step.batch.data, step.draws.normal("noise", like=step.batch.data)
        condition = step.batch.dropped_condition(s.class_dropout)
        t, r = self._interval(step)
        x_t = student.process.add_noise(x0, noise, t)
        velocity = self._velocity(step, x_t, t, condition, noise - x0)
        if s.dispersion:
            prediction, features = predict_with_features(student, x_t, t, condition, second=r, every=True)
        else:
            prediction, features = student.predict(x_t, t, condition, second=r), []
        target = self._target(step, x_t, t, r, condition, velocity)
        error = squared(prediction.as_type("flow_prediction"), target)
        power = torch.full_like(error, s.point_power).masked_fill(r < t, s.power)
        loss = adaptive(error, power, s.offset).mean()
        statistics = {"error": error.mean().detach()}
        if s.dispersion:
            feature = features[step.draws.integer("dispersion", len(features))]
            spread = dispersion(feature, s.dispersion.temperature)
            loss, statistics["dispersion"] = loss + s.dispersion.weight * spread, spread.detach()
        return loss, statistics

    def _interval(self, step: "Step") -> tuple[Tensor, Tensor]:
        """Native times (t, r), r <= t, equal for the share of the batch that learns the flow's own velocity.

        For the share `clean` r is the clean end and t as drawn, not the later of two draws, which would thin out the
        early starts; for the share `whole` t is where the student's sampling starts. Growth leaves both alone.
        """
        s = self.settings
        if s.dyadic:
            length = 0.5 ** step.draws.integers("dyadic", s.dyadic).double()
            end = length * ((step.draws.uniform("dyadic-place") / length).floor() + 1)
            t, r = (step.levels.of_flow_time(u) for u in (end, end - length))
            start = t
        else:
            one, other = step.times(s.times), step.times(s.second_times or s.times, "second-times")
            t, r, start = torch.maximum(one, other), torch.minimum(one, other), one
        if step.progress < s.growth:
            high, low = (flow_time(step.student.process, time) for time in (t, r))
            u = torch.lerp(high, low, step.progress / s.growth)
            r = step.levels.of_flow_time(u).minimum(t)
        kind = step.draws.uniform("instantaneous")
        r = torch.where(kind < s.instantaneous, t, r)
        whole, clean = kind >= 1 - s.whole, kind >= 1 - s.whole - s.clean
        t = torch.where(clean, start, t).masked_fill(whole, step.grid[0])
        return t, r.masked_fill(clean, step.student.process.t_min)

    @torch.no_grad()
    def _velocity(self, step: "Step", x: Tensor, t: Tensor, condition: Tensor | None, own: Tensor) -> Tensor:
        """The velocity that is learnt at (x, t), `own` being that of the point's data and noise: (N, ...).

        Guided: omega v + kappa U(c) + (1 - omega - kappa) U(null) at a point (2505.13447, eq. 20), v itself where the
        label is null; its effective guidance is omega / (1 - kappa).
        """
        s = self.settings
        if s.velocity == "teacher":
            return step.networks["teacher"].predict(x, t, condition, s.guidance).as_type("flow_prediction")
        if s.guidance == 1 and not s.mixing:
            return own
        null = None if condition is None else step.student.with_conditions(condition, 0)    # each label's own
        nothing = step.student.predict(x, t, null, second=t).as_type("flow_prediction")
        mixed = s.guidance * own + (1 - s.guidance - s.mixing) * nothing
        if s.mixing:
            mixed = mixed + s.mixing * step.student.predict(x, t, condition, second=t).as_type("flow_prediction")
        unguided = torch.full_like(t, condition is None, dtype=torch.bool)
        if condition is not None:
            unguided = step.student.is_null(condition)
        return torch.where(per_sample(unguided, own), own, mixed)

    @torch.no_grad()
    def _target(
        self, step: "Step", x: Tensor, t: Tensor, r: Tensor, condition: Tensor | None, velocity: Tensor
    ) -> Tensor:
        """What U should be over [r, t]: (N, ...). Only samples whose interval is no point cost a network call."""
        moving = self._moving(step, t, r)
        still = not len(moving)
        if not step.setup.asked(not still):
            return velocity
        if still:   # other processes ask: this one takes part in their call, with a sample whose answer is left out
            moving = torch.arange(1, device=t.device)
        given = None if condition is None else condition[moving]
        rule = self._by_derivative if self.settings.identity == "derivative" else self._by_splitting
        found = rule(step, x[moving], as_double(t)[moving], as_double(r)[moving], given, velocity[moving], moving)
        return velocity if still else velocity.index_copy(0, moving, found.to(velocity.dtype))

    def _moving(self, step: "Step", t: Tensor, r: Tensor) -> Tensor:
        """The rows whose interval is no point; on a device where looking would wait, those that were drawn to have
        none: of a point among them the network is asked in vain."""
        if r.device.type == "cpu":
            return (r < t).nonzero()[:, 0]
        drawn = step.draws.uniform_here("instantaneous") >= self.settings.instantaneous
        return sent(drawn.nonzero()[:, 0], r.device)

    def _by_derivative(
        self, step: "Step", x: Tensor, t: Tensor, r: Tensor, condition: Tensor | None, velocity: Tensor, rows: Tensor
    ) -> Tensor:
        student = step.student

        def mean(x: Tensor, t: Tensor, r: Tensor = r, condition: Tensor | None = condition) -> Tensor:
            return student.predict(x, t, condition, second=r).as_type("flow_prediction")

        along = mean(x, t, t).to(x.dtype) if self.settings.tangent == "own" else velocity
        if self.settings.difference:
            derivative = self._differenced(step, mean, x, t, r, condition, along)
        else:
            derivative = jvp(mean, (x, t), tangent(student.process, x, t, along))[1]
        return from_derivative(velocity, derivative, flow_time(student.process, t) - flow_time(student.process, r))

    def _differenced(
        self,
        step: "Step",
        mean: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        r: Tensor,
        condition: Tensor | None,
        velocity: Tensor,
    ) -> Tensor:
        """dU/du by U a straight step of `difference` to either side, or where the interval or the path ends.

        Of two sides, as one alone would take the mean over the noise of `velocity` for a curvature of U.
        """
        process, width = step.student.process, self.settings.difference
        here = flow_time(process, t)
        sides = torch.stack((torch.maximum(here - width, flow_time(process, r)), (here + width).clamp(max=1.0)))
        times = step.levels.exact_time((sides / (1 - sides)).flatten())
        alpha, sigma = (like(factor, x) for factor in (process.alpha(t), process.sigma(t)))
        x0, epsilon = (part(velocity, x, alpha, sigma, "flow_prediction") for part in (to_x0, to_epsilon))
        states = process.add_noise(torch.cat([x0, x0]), torch.cat([epsilon, epsilon]), times)
        both = None if condition is None else condition.repeat(2)
        with torch.autocast(x.device.type, enabled=False):  # a difference of numbers rounded to bfloat16 is noise
            before, after = mean(states, times, r.repeat(2), both).chunk(2)
        before_time, after_time = flow_time(process, times).chunk(2)
        return (after - before) / per_sample(after_time - before_time, x)

    def _by_splitting(
        self, step: "Step", x: Tensor, t: Tensor, r: Tensor, condition: Tensor | None, velocity: Tensor, rows: Tensor
    ) -> Tensor:
        student = step.student
        high, low = (flow_time(student.process, time) for time in (t, r))
        share = step.draws.uniform("split")[rows] if self.settings.split == "uniform" else torch.full_like(high, 0.5)
        u = torch.lerp(high, low, share)
        s = step.levels.of_flow_time(u).double().clamp(min=r, max=t)
        first = student.predict(x, t, condition, second=s)
        between = student.process.add_noise(first.x0, first.epsilon, s)
        second = student.predict(between, s, condition, second=r).as_type("flow_prediction")
        return from_parts(first.as_type("flow_prediction"), second, share)
