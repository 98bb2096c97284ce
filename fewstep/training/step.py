"""What a term sees of one step: the networks by role, the batch, keyed draws, and what terms share within the step."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.errors import SettingsError
from fewstep.recipes.settings import NativeTimes, Times, UniformTimes
from fewstep.training.draws import Draws
from fewstep.training.sources import Sources

if TYPE_CHECKING:
    from fewstep.denoiser import Denoiser, Prediction


class Step:
    """One part of one step's batch, in the turn of `role`.

    Attributes:
        role: the role trained in this turn.
        networks: Denoiser by role; "student" always, "teacher" where there is one.
        grid: native times of the student's steps, the first one being where sampling starts.
        progress: share of the round that is done, in [0, 1).
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
    ):
        self.role, self.networks, self.grid = role, networks, grid
        self.progress = progress
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

    def integers(self, name: str, high: int) -> Tensor:
        """(size,) uniform in 0 ... high - 1."""
        return self._draws.integers(name, high)[self._part]

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

    @cached_property
    def pair(self) -> dict[str, Tensor]:
        """Cached teacher outputs: noise, x, and states and times where they are kept."""
        whole = self._draws.once("pair", lambda: self._sources.pair_batch(self._draws))
        return {name: value if name == "times" else value[self._part] for name, value in whole.items()}

    @cached_property
    def condition(self) -> Tensor | None:
        """Labels (size,) of the batch: those of the pairs or the data, else uniform; None without classes.

        Pairs or data without labels get the null class; SettingsError if the network has none.
        """
        classes, null = self.student.num_classes, self.student.null_class
        if not classes:
            return None
        if self._sources.pairs is None and self._sources.data is None:
            labels = self.integers("condition", classes)
            if null is None or not self._sources.null_share:
                return labels
            dropped = self.uniform("null") < self._sources.null_share
            return torch.where(dropped, torch.full_like(labels, null), labels)
        labels = self.pair.get("condition") if self._sources.pairs is not None else None
        if labels is None and self._sources.data is not None and self._data[1] is not None:
            labels = self._data[1][self._part]
        if labels is not None:
            return labels
        if null is None:
            raise SettingsError(f"the network has {classes} classes and no null class, but the data have no labels")
        return torch.full((self.size,), null, device=self._draws.device)

    @cached_property
    def scale(self) -> Tensor | None:
        """Guidance scales (size,), uniform over the range that the student takes as an input; None if it takes none."""
        scales = self.student.inputs.guidance
        if scales is None:
            return None
        return scales.low + (scales.high - scales.low) * self.uniform("guidance-scale")

    def dropped_condition(self, share: float) -> Tensor | None:
        """`condition` with this share of the labels replaced by the null class, where the network has one."""
        labels, null = self.condition, self.student.null_class
        if labels is None or null is None or not share:
            return labels
        return torch.where(self.uniform("class-dropout") < share, torch.full_like(labels, null), labels)

    # --- noise levels ------------------------------------------------------------------------------------------------

    def full(self, t: float) -> Tensor:
        """(size,) of one native time."""
        return torch.full((self.size,), t, device=self._draws.device)

    def times(self, settings: Times, name: str = "times") -> Tensor:
        """(size,) native times from this distribution, float32, within the process's range."""
        process = self.student.process
        if isinstance(settings, NativeTimes):
            t = process.t_min + self.uniform(name) * (process.t_max - process.t_min)
            return t.float()
        if isinstance(settings, UniformTimes):
            u = (settings.low + self.uniform(name) * (settings.high - settings.low)).clamp(1e-9, 1 - 1e-9)
            return self.time_of_ratio(u / (1 - u))
        log_nu = settings.mean + settings.std * self._draws.gaussian(name)[self._part]
        return self.time_of_ratio(log_nu.exp())

    def time_of_ratio(self, nu: Tensor) -> Tensor:
        """Native time, float32, of noise ratios nu = sigma / alpha, held within the process's range."""
        low, high = self._log_snr_range
        return self.student.process.time((-2 * nu.double().log()).clamp(low, high)).float()

    def noise_ratio(self, t: Tensor) -> Tensor:
        """nu = sigma / alpha at native times t."""
        return (-0.5 * self.student.process.log_snr(t)).exp()

    @cached_property
    def _log_snr_range(self) -> tuple[float, float]:
        process = self.student.process
        ends = process.log_snr(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
        # A process that reaches pure noise or clean data is held just before it, where the ratio is finite.
        return max(float(ends[0]), -2 * math.log(1e5)), min(float(ends[1]), 2 * math.log(1e5))

    @cached_property
    def least_noise_ratio(self) -> float:
        """nu at the process's clean end, or next to it."""
        return math.exp(-0.5 * self._log_snr_range[1])

    @cached_property
    def greatest_noise_ratio(self) -> float:
        """nu at the process's noise end, or next to it where that is pure noise."""
        return math.exp(-0.5 * self._log_snr_range[0])

    @cached_property
    def start_noise_ratio(self) -> float:
        """nu where the student's sampling starts, or next to it where that is pure noise."""
        return min(float(self.noise_ratio(torch.tensor(self.grid[0], dtype=torch.float64))), self.greatest_noise_ratio)

    # --- shared between terms ----------------------------------------------------------------------------------------

    def start(self, noise: Tensor) -> Tensor:
        """The student's first state of N(0, I) noise."""
        return self.student.process.initial(noise, self.grid[0])

    @cached_property
    def generated(self) -> Tensor:
        """The student's samples (size, ...): with a graph in the student's own turn, without one in any other.

        With several steps the student's own earlier steps give the input of a randomly chosen last one, the only one
        with a gradient (backward simulation; Yin et al., 2405.14867, section 4.5).
        """
        last = self._draws.integer("exit", len(self.grid)) if len(self.grid) > 1 else 0
        x = self.start(self.normal("generator"))
        for k in range(last):
            with torch.no_grad():
                x0 = self.student.predict(x, self.full(self.grid[k]), self.condition).x0
                x = self.student.process.add_noise(x0, self.normal(f"renoise/{k}"), self.full(self.grid[k + 1]))
        with torch.set_grad_enabled(self.role == "student"):
            return self.student.predict(x, self.full(self.grid[last]), self.condition).x0

    def noised(self, what: str, times: Times) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t, noise) of the student's samples ("fake") or of data ("real"); one draw for equal `times`."""
        name = f"{what}/{times!r}"

        def make() -> tuple[Tensor, Tensor, Tensor]:
            x = self.generated if what == "fake" else self.data
            t, noise = self.times(times, f"times/{times!r}"), self.normal(f"noise/{name}", like=x)
            return self.student.process.add_noise(x, noise, t), t, noise

        return self._once(("noised", name), make)

    def judged(self, role: str, what: str, times: Times) -> tuple["Prediction", list[Tensor]]:
        """Prediction of `role` and its inner features (where a term reads them) at `noised(what, times)`.

        One call of the network however many terms ask. In the student's turn there is a graph, to the input only, and
        only if a term reads features.
        """
        reads = role in self._features

        def make() -> tuple["Prediction", list[Tensor]]:
            x_t, t, _ = self.noised(what, times)
            with torch.set_grad_enabled(self.role == role or reads):
                network = self.networks[role]
                if reads:
                    return network.features(x_t, t, self.condition)
                return network.predict(x_t, t, self.condition), []

        return self._once(("judged", role, what, repr(times)), make)

    def _once(self, key: tuple, make) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
