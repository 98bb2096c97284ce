"""The typed settings of every term. The mathematics stands in fewstep/terms, one file per term. Torch-free.

A new term: a class here (it joins `AnyTerm`), a file of the same name in fewstep/terms.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from fewstep.configuration import Strict, unknown
from fewstep.recipes.settings import LogNormalTimes, NativeTimes, Positive, RoleSettings, Share, Times, UniformTimes


class Needs(Strict):
    """What an objective asks for: real data, cached pairs, stored states of trajectories, a live teacher."""

    data: bool = False
    pairs: bool = False
    states: Literal["all"] | tuple[int, ...] | None = None
    teacher: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        lists = {self.states, other.states} - {None}
        states = None if not lists else lists.pop() if len(lists) == 1 else "all"
        return Needs(data=self.data or other.data, pairs=self.pairs or other.pairs, states=states,
                     teacher=self.teacher or other.teacher)

    def words(self) -> list[str]:
        """The needs as words for people, such as ["real data", "teacher"]."""
        states = f"states {'all' if self.states == 'all' else list(self.states)}" if self.states else None
        named = [(self.teacher, "teacher"), (self.pairs, "pairs"), (bool(states), states), (self.data, "real data")]
        return [word for wanted, word in named if wanted and word]


class TermSettings(Strict):
    """What every term has."""

    weight: Annotated[float, Field(ge=0)] = 1.0

    @property
    def needs(self) -> Needs:
        """What this term asks for."""
        return Needs()

    @property
    def roles(self) -> dict[str, RoleSettings]:
        """Networks that this term brings, by role."""
        return {}

    @property
    def trains(self) -> tuple[str, ...]:
        """Roles that this term has a loss for: one of them is trained in each turn."""
        return ("student",)


class Denoising(TermSettings):
    """Denoising score matching on data: what trains a teacher."""

    term: Literal["denoising"]
    times: Times = NativeTimes()
    class_dropout: Share = 0.0
    """Share of the labels replaced by the null class, which guidance needs."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True)


class Regression(TermSettings):
    """The student's sample against the end of the teacher's trajectory (knowledge distillation)."""

    term: Literal["regression"]
    at: Literal["noise", "states"] = "noise"
    """noise: from the start of the trajectory in one step; states: from any stored state."""
    distance: Literal["l2", "pseudo_huber"] = "l2"
    huber: Positive = 0.00054
    """pseudo_huber: c = huber * sqrt(dimension)."""

    @property
    def needs(self) -> Needs:
        return Needs(pairs=True, states="all" if self.at == "states" else None)


class FlowMatching(TermSettings):
    """Velocity of the straight path between noise and sample: on data, or on pairs (reflow)."""

    term: Literal["flow_matching"]
    source: Literal["data", "pairs"] = "pairs"
    times: Times = UniformTimes()

    @property
    def needs(self) -> Needs:
        return Needs(data=self.source == "data", pairs=self.source == "pairs")


class Consistency(TermSettings):
    """Consistency tuning on data (ECT): two points of one noise, ever closer together."""

    term: Literal["consistency"]
    times: Times = LogNormalTimes()
    q: Annotated[float, Field(gt=1)] = 2.0
    k: Annotated[float, Field(ge=0)] = 8.0
    b: Positive = 1.0
    stages: Annotated[int, Field(ge=1)] = 8
    """Stages of equal length in a round; the gap between the two points shrinks by q at each."""
    ratio_cap: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Largest ratio of the two noise levels."""
    huber: Annotated[float, Field(ge=0)] = 0.00054
    """c = huber * sqrt(dimension) in sqrt(|d|^2 + c^2) - c."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True)


class DistributionMatching(TermSettings):
    """Reverse KL by two scores: the teacher's, and that of a network trained on the student's samples."""

    term: Literal["distribution_matching"]
    divergence: Literal["reverse_kl"] = "reverse_kl"
    guidance: float = 1.0
    """Guidance of the teacher's score, u + guidance (c - u)."""
    times: Times = UniformTimes(low=0.02, high=0.98)
    fake_score: RoleSettings = RoleSettings()

    @property
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @property
    def roles(self) -> dict[str, RoleSettings]:
        return {"fake_score": self.fake_score}

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", "fake_score")


class Adversarial(TermSettings):
    """A head on the fake score's features tells noised samples from noised data (DMD2)."""

    term: Literal["adversarial"]
    features: Literal["fake_score"] = "fake_score"
    weight: Annotated[float, Field(ge=0)] = 3e-3
    critic_weight: Annotated[float, Field(ge=0)] = 1e-2
    """Weight of the head's own loss in the turn of the network whose features it reads."""
    width: Annotated[int, Field(ge=1)] = 64
    times: Times = UniformTimes(low=0.02, high=0.98)
    """Noise levels of what is judged; equal to another term's, the same noised samples and network calls serve both."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True)

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", self.features)


_Any = Denoising | Regression | FlowMatching | Consistency | DistributionMatching | Adversarial
_NAMES = tuple(get_args(kind.model_fields["term"].annotation)[0] for kind in get_args(_Any))


def _known(data: Any) -> Any:
    name = data.get("term") if isinstance(data, dict) else None
    if isinstance(name, str) and name not in _NAMES:
        raise ValueError(unknown("term", name, _NAMES))
    return data


AnyTerm = Annotated[_Any, Field(discriminator="term"), BeforeValidator(_known)]
