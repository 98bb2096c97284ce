"""What a term sees of one step: the networks by role, the batch, keyed draws, and what terms share within the step."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Scales, is_guided, told
from fewstep.diffusion.noise_level_settings import Times
from fewstep.diffusion.noise_levels import Levels, distribution
from fewstep.networks.unet_blocks import predict_with_features
from fewstep.objectives.term_settings import Needs
from fewstep.recipes.training_settings import Inputs
from fewstep.training.distributed import World, everywhere
from fewstep.training.step.batches import Source, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.renoise import Noised, raise_level
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser, Prediction
    from fewstep.objectives.term import Term


class Step:
    """One part of one step's batch, in the turn of `role`.

    Attributes:
        role: the role trained in this turn.
        networks: Denoiser by role; "student" always, "teacher" where there is one.
        grid: native times of the student's steps, the first one being where sampling starts.
        sampler: how the student goes from one step to the next, as in its settings.
        progress: share of the round that is done, in [0, 1).
        terms: of the round, which may serve each other (`log_ratio`, `compared`).
        finest: native times of the finest steps of any round and its teachers, to which the grid's belong.
        labelled_by: whose labels the batch has; None (given: as for a term that reads neither): they are drawn.
        inputs: what the student's later steps are given (see Round.inputs).
    """

    def __init__(
        self,
        role: str,
        networks: Mapping[str, "Denoiser"],
        grid: list[float],
        sources: Sources,
        draws: Draws,
        part: slice = slice(None),
        progress: float = 0.0,
        features: frozenset[str] = frozenset(),
        *,
        graphs: frozenset[str] = frozenset(),
        sampler: str = "renoise",
        terms: Sequence["Term"] = (),
        finest: list[float] | None = None,
        labelled_by: Source | None = None,
        inputs: Inputs = "own",
    ):
        self.role, self.networks, self.grid, self.sampler = role, networks, grid, sampler
        self.labelled_by, self.inputs = labelled_by or sources.read_by(Needs()), inputs
        self._finest = finest or grid
        self.progress, self.terms, self._graphs = progress, terms, graphs
        self._sources, self._draws, self._part, self._features = sources, draws, part, features
        self._made: dict[tuple, Any] = {}

    # --- keyed draws -------------------------------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """Samples in this part of the batch."""
        return len(range(*self._part.indices(self._draws.batch)))

    @cached_property
    def rows(self) -> Tensor:
        """0 ... size - 1, to index one entry per sample."""
        return torch.arange(self.size, device=self._draws.device)

    def normal(self, name: str, like: Tensor | None = None) -> Tensor:
        """(size, *sample shape) N(0, I) named `name`: equal names are equal draws within a step."""
        shape = self.student.sample_shape if like is None else like.shape[1:]
        return self._draws.normal(name, tuple(shape))[self._part]

    def uniform(self, name: str) -> Tensor:
        """(size,) uniform in [0, 1)."""
        return self._draws.uniform(name)[self._part]

    def gaussian(self, name: str) -> Tensor:
        """(size,) N(0, 1)."""
        return self._draws.gaussian(name)[self._part]

    def integers(self, name: str, high: int) -> Tensor:
        """(size,) uniform in 0 ... high - 1."""
        return self._draws.integers(name, high)[self._part]

    def integer(self, name: str, high: int) -> int:
        """One for the whole batch, uniform in 0 ... high - 1."""
        return self._draws.integer(name, high)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator for what the whole batch has in common; equal names are equal draws within a step."""
        return self._draws.generator(name)

    # --- the batch ---------------------------------------------------------------------------------------------------

    @cached_property
    def student(self) -> "Denoiser":
        """The network in training."""
        return self.networks["student"]

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor | None]:
        return self._draws.once("data", lambda: self._sources.data_batch(self._draws))

    @property
    def data(self) -> Tensor:
        """Real samples (size, ...)."""
        return self._data[0][self._part]

    def examples(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The first `count` real samples (count, ...), with labels (count,) or None: the same at every step."""
        return self._sources.examples(self._draws.seed, count)

    @cached_property
    def pair(self) -> dict[str, Tensor]:
        """Cached teacher outputs: noise, x, and states and times where they are kept."""
        whole = self._draws.once("pair", lambda: self._sources.pair_batch(self._draws))
        return {name: value if name == "times" else value[self._part] for name, value in whole.items()}

    @cached_property
    def condition(self) -> Tensor | None:
        """Labels (size,) of the batch: those of `labelled_by`, else uniform; None without classes.

        Pairs or data without labels get the null class; SettingsError if the network has none.
        """
        classes, null = self.student.num_classes, self.student.null_class
        if not classes:
            return None
        if self.labelled_by is None:
            allowed = self._sources.labels
            own = list(range(classes)) if allowed is None else [k for k in allowed if k < classes and k != null]
            labels = torch.tensor(own, device=self._draws.device)[self.integers("condition", len(own))]
            if null is None or not self._sources.null_share:
                return labels
            weaker = self._weakened(labels, self.uniform("null") < self._sources.null_share, "null-conditions")
            if allowed is None:
                return weaker
            return torch.where(torch.isin(weaker, torch.tensor(allowed, device=weaker.device)), weaker, labels)
        if self.labelled_by == "pairs":
            labels = self.pair.get("condition")
        else:
            labels = None if self._data[1] is None else self._data[1][self._part]
        if labels is not None:
            return labels
        if null is None:
            what = f"the {self.labelled_by} have no labels"
            raise SettingsError(f"the network has {classes} classes and no null class, but {what}")
        return torch.full((self.size,), null, device=self._draws.device)

    @cached_property
    def scale(self) -> Tensor | None:
        """Guidance scales (size,), uniform over the range that the student takes as an input; None if it takes none."""
        scales = self.student.inputs.guidance
        if scales is None:
            return None
        return scales.low + (scales.high - scales.low) * self.uniform("guidance-scale")

    @property
    def scale_input(self) -> dict[str, Tensor]:
        """`scale` as the student's `predict` takes it: a keyword, or none for a student without that input."""
        return {} if self.scale is None else {"scale": self.scale}

    def guidance(self, fixed: Scales) -> Scales | Tensor:
        """The teacher's guidance scale: the one that the student is told, or `fixed` for one without that input.

        Raises SettingsError for several scales beside that input, which is one number.
        """
        if self.scale is None:
            return fixed
        if isinstance(fixed, tuple):
            raise SettingsError(f"guidance: {told(fixed)} is several scales, and the student is told one",
                                hint="leave out the student's guidance_input, or the term's guidance")  # fmt: skip
        return self.scale

    def dropped_condition(self, share: float) -> Tensor | None:
        """`condition` with this share of the labels replaced by the null class, where the network has one, or in a
        network with groups by what is left without some of their conditions."""
        labels = self.condition
        if labels is None or self.student.null_class is None or not share:
            return labels
        return self._weakened(labels, self.uniform("class-dropout") < share, "class-dropout/conditions")

    def _weakened(self, labels: Tensor, which: Tensor, name: str) -> Tensor:
        """The labels (size,); of those in the mask `which` fewer conditions, each smaller number as likely."""
        most = self.student.conditions
        left = self.integers(name, most) if most > 1 else torch.zeros_like(labels)
        return torch.where(which, self.student.with_conditions(labels, left), labels)

    def everywhere(self, x: Tensor) -> Tensor:
        """(size, ...) -> the rows of all processes, for a loss that is no mean over samples (a distance of batches)."""
        return everywhere(x, World.current())

    # --- noise levels ------------------------------------------------------------------------------------------------

    @cached_property
    def levels(self) -> Levels:
        """Noise ratios of the student's process."""
        return Levels(self.student.process, self.grid[0])

    def full(self, t: float) -> Tensor:
        """(size,) of one native time."""
        return torch.full((self.size,), t, device=self._draws.device)

    def nodes(self, parts: int) -> list[float]:
        """Native times of the student's grid with each step cut into `parts`."""
        return self._finest[:: len(self._finest) // (len(self.grid) * parts)]

    def times(
        self, settings: Times, name: str = "times", between: tuple[float | None, float | None] = (None, None)
    ) -> Tensor:
        """(size,) native times from this distribution, float32, within the process's range.

        between: native times, to whose interval the distribution is restricted; None: no bound.
        """
        spread = distribution(settings, self.levels)
        if between == (None, None):
            return spread.drawn(self, name)
        low, high = (None if bound is None else spread.share(bound) for bound in between)
        high = 1.0 if high is None else high
        low = min(low or 0.0, high)
        return spread.at(low + self.uniform(name) * (high - low))

    # --- shared between terms ----------------------------------------------------------------------------------------

    def start(self, noise: Tensor) -> Tensor:
        """The student's first state of N(0, I) noise."""
        return self.student.process.initial(noise, self.grid[0])

    @cached_property
    def exit(self) -> int:
        """Which of the student's steps this batch is judged at."""
        return self.integer("exit", len(self.grid)) if len(self.grid) > 1 else 0

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
        x = self.start(self.normal("generator"))
        with torch.set_grad_enabled(self.role == "student"):
            for k, t in enumerate(self.grid):
                x = self._after(self.student.predict(x, self.full(t), self.condition), k)
        return x

    @cached_property
    @torch.no_grad()
    def exit_state(self) -> Tensor:
        """The student's state (size, ...) at grid[exit]: its own, or noised samples where the round says so."""
        if self.exit and self.inputs != "own":
            samples = self.data if self.inputs == "data" else self.pair["x"]
            return self.student.process.add_noise(samples, self.normal("generator"), self.full(self.grid[self.exit]))
        x = self.start(self.normal("generator"))
        for k in range(self.exit):
            x = self._after(self.student.predict(x, self.full(self.grid[k]), self.condition), k)
        return x

    @cached_property
    def _exit_prediction(self) -> "Prediction":
        x = self.exit_state
        with torch.set_grad_enabled(self.role == "student"):
            return self.student.predict(x, self.full(self.grid[self.exit]), self.condition)

    def _after(self, prediction: "Prediction", k: int) -> Tensor:
        """The student's state after its step k, at grid[k + 1]; clean samples after the last."""
        if k + 1 == len(self.grid):
            return prediction.x0
        noise = self.normal(f"renoise/{k}") if self.sampler == "renoise" else prediction.epsilon
        return self.student.process.add_noise(prediction.x0, noise, self.full(self.grid[k + 1]))

    def noised(self, what: str, times: Times | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x_t, t, noise) of the student's samples ("fake"), of data ("real") or of the teacher's samples ("pair").

        One draw for equal `times`; without times the samples as they are, (x, None, None).
        """
        if times is None:
            return self._samples(what), None, None
        made = self.raised(what, times)
        return made.x, made.t, made.noise

    def _samples(self, what: str) -> Tensor:
        return self.generated if what == "fake" else self.data if what == "real" else self.pair["x"]

    def raised(self, what: str, times: Times) -> Noised:
        """Samples or states at noise levels from `times`; one draw for equal `times`.

        what: as in `noised`; or "phases", the student's state after a random step, noised within that step's interval
        of noise levels.
        """
        name = f"{what}/{times!r}"

        def make() -> Noised:
            process, between, s = self.student.process, (None, None), None
            if what == "phases":
                between = ([*self.grid, None][self.exit + 1], self.grid[self.exit])
                x = self.generated
                if self.sampler == "ode":  # a state of `renoise` is a noised sample, and its clean one is known
                    x, s = self._after(self._exit_prediction, self.exit), between[0]
            else:
                x = self._samples(what)
            t = self.times(times, f"times/{times!r}", between)
            noise = self.normal(f"noise/{name}", like=x)
            if s is None:
                return Noised(process.add_noise(x, noise, t), t, x, noise, torch.ones_like(t))
            return raise_level(process, x, s, noise, t)

        return self.once(("raised", name), make)

    def judged(
        self, role: str, what: str, times: Times, guidance: Scales | Tensor = 1.0
    ) -> tuple["Prediction", list[Tensor]]:
        """Prediction of `role` and its inner features (where a term reads them) at `raised(what, times)`.

        One call of the network however many terms ask, unless with guidance. There is a graph in the network's own turn
        and, to the input only, in the student's if a term reads features or differentiates the prediction.
        """
        plain = not is_guided(guidance)
        reads = role in self._features and plain

        def make() -> tuple["Prediction", list[Tensor]]:
            at = self.raised(what, times)
            through = self.role == "student" and (reads or role in self._graphs)
            with torch.set_grad_enabled(self.role == role or through):
                network = self.networks[role]
                if reads:
                    return predict_with_features(network, at.x, at.t, self.condition)
                return network.predict(at.x, at.t, self.condition, guidance), []

        return self.once(("judged", role, what, repr(times)), make) if plain else make()

    def log_ratio(self, what: str, times: Times) -> Tensor:
        """log p_data / p_student (size,) at `raised(what, times)`, as an adversarial term of the round estimates it.

        Without a gradient. Raises SettingsError if no term of the round does.
        """
        for term in self.terms:
            found = term.log_ratio(self, what, times)
            if found is not None:
                return found.detach()
        raise SettingsError("no term of the round estimates the ratio of densities; add `term: adversarial`")

    def compared(self) -> tuple[Tensor, Tensor, Tensor]:
        """(the student's states, their targets, noise ratios (size,)), as a term of the round compares them.

        The states (size, ...) are at unit variance. Raises SettingsError if no term of the round compares any.
        """
        for term in self.terms:
            found = term.compared(self)
            if found is not None:
                return found
        raise SettingsError("no term of the round compares states with targets; add `term: consistency`")

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What `make()` returned the first time that this key was asked for in this step."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
