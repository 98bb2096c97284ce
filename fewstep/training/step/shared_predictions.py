"""What the networks make of a step's draws, computed once however many terms ask: the student's samples, and what the
other networks predict at noised samples."""

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Scales, is_guided
from fewstep.diffusion.noise_level_settings import Times
from fewstep.networks.block_features import features_at, predict_with_features
from fewstep.objectives.term import Judged
from fewstep.training.step.renoise import Noised, raise_level

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Prediction
    from fewstep.objectives.term import Term
    from fewstep.training.step.step_context import Step


class SharedPredictions:
    """Predictions of the networks of `step`, on its batch and by its draws.

    Names of samples: "fake", the student's; "real", data; "pair", the teacher's cached ones; "phases", the student's
    state after a random step, noised within that step's interval of noise levels.
    """

    def __init__(self, step: "Step"):
        # a circle would keep the tensors of a step until Python looks for garbage, well into the next one
        self._step, self._grid, self._draws = weakref.proxy(step), step.grid, step.draws
        self._called: set[tuple] = set()  # what a network was called for as a whole

    # --- the student's samples ---------------------------------------------------------------------------------------

    def start(self, noise: Tensor) -> Tensor:
        """The student's first state of N(0, I) noise."""
        return self._step.student.process.initial(noise, self._grid[0])

    @cached_property
    def exit(self) -> int:
        """Which of the student's steps this batch is judged at."""
        return self._draws.integer("exit", len(self._grid)) if len(self._grid) > 1 else 0

    @cached_property
    @torch.no_grad()
    def exit_state(self) -> Tensor:
        """The student's state (size, ...) at grid[exit]: its own, or noised samples where the round says so."""
        step, inputs = self._step, self._step.setup.inputs
        if self.exit and inputs != "own":
            samples = step.batch.data if inputs == "data" else step.batch.pair["x"]
            t = self._draws.full(self._grid[self.exit])
            return step.student.process.add_noise(samples, self._draws.normal("generator"), t)
        x = self.start(self._draws.normal("generator"))
        for k in range(self.exit):
            x = self._after(self._predict(x, k), k)
        return x

    @cached_property
    def generated(self) -> Tensor:
        """The student's samples (size, ...): with a graph in the student's own turn, without one in any other.

        With several steps the student's own earlier steps give the input of a randomly chosen last one, the only one
        with a gradient (backward simulation; Yin et al., 2405.14867, section 4.5), unless the round's `inputs` are
        noised samples.
        """
        return self._exit_prediction.x0

    @cached_property
    def sampled(self) -> Tensor:
        """The student's samples (size, ...) by all of its steps, in its own turn with a graph through each of them."""
        x = self.start(self._draws.normal("generator"))
        with torch.set_grad_enabled(self._step.role == "student"):
            for k in range(len(self._grid)):
                x = self._after(self._predict(x, k), k)
        return x

    @cached_property
    def _exit_prediction(self) -> "Prediction":
        x = self.exit_state
        with torch.set_grad_enabled(self._step.role == "student"):
            return self._predict(x, self.exit)

    def _predict(self, x: Tensor, k: int) -> "Prediction":
        """The student's prediction at its state x at grid[k]."""
        return self._step.student.predict(x, self._draws.full(self._grid[k]), self._step.batch.condition)

    def _after(self, prediction: "Prediction", k: int) -> Tensor:
        """The student's state after its step k, at grid[k + 1]; clean samples after the last."""
        if k + 1 == len(self._grid):
            return prediction.x0
        renoises = self._step.setup.sampler == "renoise"
        noise = self._draws.normal(f"renoise/{k}") if renoises else prediction.epsilon
        return self._step.student.process.add_noise(prediction.x0, noise, self._draws.full(self._grid[k + 1]))

    # --- noised samples, and what the networks predict there ---------------------------------------------------------

    def noised(self, samples: str, times: Times | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x_t, t, noise) of the samples "fake", "real" or "pair".

        One draw for equal `times`; without times the samples as they are, (x, None, None).
        """
        if times is None:
            return self._samples(samples), None, None
        made = self.raised(samples, times)
        return made.x, made.t, made.noise

    def _samples(self, samples: str) -> Tensor:
        batch = self._step.batch
        return self.generated if samples == "fake" else batch.data if samples == "real" else batch.pair["x"]

    def raised(self, samples: str, times: Times) -> Noised:
        """Samples or states at noise levels from `times`; one draw for equal `times`."""
        return self._step.once(("raised", f"{samples}/{times!r}"), lambda: self._raise(samples, times))

    def _raise(self, samples: str, times: Times) -> Noised:
        step, process, between, s = self._step, self._step.student.process, (None, None), None
        if samples == "phases":
            between = ([*self._grid, None][self.exit + 1], self._grid[self.exit])
            x = self.generated
            if step.setup.sampler == "ode":  # a state of `renoise` is a noised sample, and its clean one is known
                x, s = self._after(self._exit_prediction, self.exit), between[0]
        else:
            x = self._samples(samples)
        t = step.times(times, f"times/{times!r}", between)
        noise = self._draws.normal(f"noise/{samples}/{times!r}", like=x)
        if s is None:
            return Noised(process.add_noise(x, noise, t), t, x, noise, torch.ones_like(t))
        return raise_level(process, x, s, noise, t)

    def judged(self, role: str, samples: str, times: Times, guidance: Scales | Tensor = 1.0) -> "Prediction":
        """Prediction of `role` at `raised(samples, times)`: one call of the network however many terms ask, by whatever
        role they know it, unless with guidance.

        There is a graph in the network's own turn and, to the input only, in the student's if a term of that turn reads
        features there or differentiates the prediction.
        """
        if not is_guided(guidance):
            return self._whole_call(role, samples, times)[0]
        step, at = self._step, self.raised(samples, times)
        with torch.set_grad_enabled(self._has_graph(role)):
            return step.networks[role].predict(at.x, at.t, step.batch.condition, guidance)

    def features(self, role: str, samples: str, times: Times) -> list[Tensor]:
        """Inner features of `role` at `raised(samples, times)`, with a graph in the network's own turn and, to the
        input only, in the student's.

        They come with the plain prediction where a term of this turn asks for it there, else of a call that ends with
        them. A guided prediction is no such call: in the student's turn its graph would be that of all its branches.
        """
        step, key = self._step, self._key(Judged(role, samples, times))
        follows = torch.is_grad_enabled() and step.role in (role, "student")
        if key in self._called or self._asked(key, lambda term: term.predictions(step.role)):
            found = self._whole_call(role, samples, times)[1]
            if found and (found[0].requires_grad or not follows):
                return found

        def make() -> list[Tensor]:
            at = self.raised(samples, times)
            with torch.set_grad_enabled(follows):
                return features_at(step.networks[role], at.x, at.t, step.batch.condition)

        return step.once(("features", follows, *key), make)

    def _whole_call(self, role: str, samples: str, times: Times) -> tuple["Prediction", list[Tensor]]:
        """A plain call of the network, with features where a term reads some of that network."""
        step, key = self._step, self._key(Judged(role, samples, times))
        network = step.networks[role]
        reads = any(step.networks[other] is network for other in step.setup.features)

        def make() -> tuple["Prediction", list[Tensor]]:
            at, condition = self.raised(samples, times), step.batch.condition
            read = step.role == "student" and self._asked(key, lambda term: term.features(step.role))
            with torch.set_grad_enabled(read or self._has_graph(role)):
                if reads:
                    return predict_with_features(network, at.x, at.t, condition)
                return network.predict(at.x, at.t, condition), []

        self._called.add(key)
        return step.once(("judged", *key), make)

    def _has_graph(self, role: str) -> bool:
        """Whether a prediction of this role is differentiated, whoever reads its features."""
        return self._step.role == role or (self._step.role == "student" and role in self._step.setup.graphs)

    def _asked(self, key: tuple, asks: Callable[["Term"], Sequence[Judged]]) -> bool:
        """Whether a term of this turn tells that it asks for this."""
        terms = [term for term in self._step.terms if term.trains(self._step.role)]
        return any(self._key(asked) == key for term in terms for asked in asks(term))

    def _key(self, asked: Judged) -> tuple:
        """What is one call: two roles may be one network."""
        return id(self._step.networks[asked.role]), asked.samples, repr(asked.times)
