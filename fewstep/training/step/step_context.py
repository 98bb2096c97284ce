"""What a term sees of one step: the networks by role, keyed draws, the batch, noise levels and shared predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewstep.diffusion.noise_level_settings import Times
from fewstep.diffusion.noise_levels import Levels, distribution
from fewstep.recipes.training_settings import Inputs
from fewstep.training.step.batches import Source, Sources
from fewstep.training.step.keyed_draws import Draws, PartDraws
from fewstep.training.step.shared_predictions import SharedPredictions
from fewstep.training.step.step_batch import StepBatch

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.objectives.term import Term


@dataclass(frozen=True)
class StepSetup:
    """What the steps of a round have in common.

    Attributes:
        networks: Denoiser by role; "student" always, "teacher" where there is one.
        grid: native times of the student's steps, the first one being where sampling starts.
        sources: where data and pairs come from.
        sampler: how the student goes from one step to the next, as in its settings.
        finest: native times of the finest steps of any round and its teachers, among them the grid's; None: `grid`.
        terms: of the round, which may serve each other.
        inputs: what the student's later steps are given (see Round.inputs).
        features: roles whose inner features a term reads. graphs: frozen roles that a term differentiates.
        asked: whether any process has to ask a network that the samples here may have no question for: where each holds
            rows of the networks, all of them take part in a call of one.
        filled: tensors of one value, which every step has.
    """

    networks: Mapping[str, "Denoiser"]
    grid: Sequence[float]
    sources: Sources
    sampler: str = "renoise"
    finest: Sequence[float] | None = None
    terms: Sequence["Term"] = ()
    inputs: Inputs = "own"
    features: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()
    asked: Callable[[bool], bool] = bool
    filled: dict[tuple, Tensor] = field(default_factory=dict)


class Step:
    """One part of one step's batch, in the turn of `role`.

    Args:
        setup: what the steps of the round have in common.
        role: the role trained in this turn.
        draws: random numbers of the whole batch. part: the rows of it that this step is about.
        progress: share of the round that is done, in [0, 1).
        labelled_by: whose labels the batch has; None (given: as for a term that reads neither): they are drawn.

    Attributes:
        draws: random numbers of this part, by name. batch: its samples and labels. shared: predictions of the networks.
        levels: noise ratios of the student's process.
    """

    def __init__(
        self,
        setup: StepSetup,
        role: str,
        draws: Draws,
        part: slice = slice(None),
        progress: float = 0.0,
        labelled_by: Source | None = None,
    ):
        self.setup, self.role, self.progress = setup, role, progress
        self.networks, self.grid, self.terms = setup.networks, setup.grid, setup.terms
        self.student = setup.networks["student"]
        self.draws = PartDraws(draws, part, self.student.sample_shape, setup.filled)
        self.batch = StepBatch(setup.sources, self.draws, self.student, labelled_by)
        self._made: dict[tuple, Any] = {}

    @cached_property
    def levels(self) -> Levels:
        return Levels(self.student.process, self.grid[0])

    @cached_property
    def shared(self) -> SharedPredictions:
        return SharedPredictions(self)

    def nodes(self, parts: int) -> Sequence[float]:
        """Native times of the student's grid with each step cut into `parts`."""
        finest = self.setup.finest or self.grid
        return finest[:: len(finest) // (len(self.grid) * parts)]

    def times(
        self, settings: Times, name: str = "times", between: tuple[float | None, float | None] = (None, None)
    ) -> Tensor:
        """(size,) native times from this distribution, float32, within the process's range.

        between: native times, to whose interval the distribution is restricted; None: no bound.
        """
        spread = distribution(settings, self.levels)
        if between == (None, None):
            return spread.drawn(self.draws, name)
        low, high = (None if bound is None else spread.share(bound) for bound in between)
        high = 1.0 if high is None else high
        low = min(low or 0.0, high)
        return spread.at(low + self.draws.uniform(name) * (high - low))

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What `make()` returned the first time that this key was asked for in this step."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
