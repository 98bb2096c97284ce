"""What every term's settings have, and what an objective may ask for. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.objectives.role_settings import TurnSettings
from fewstep.util.config import Strict

TEACHER_NETWORK = "teacher_network"
"""Role of the teacher's weights, whose features terms read: the teacher, or for a closed form what was fitted to it."""
START = "start"
"""Role of a copy of the student as the round began."""

COMPARED_STATES, DENSITY_RATIO = "compared states", "density ratio"
OFFERED = {
    COMPARED_STATES: "a term in its round that compares states with targets, such as consistency",
    DENSITY_RATIO: "a term in its round that estimates the ratio of densities, such as adversarial",
}
"""What a term may offer to another one of its round, and in words which term that is."""


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
    """What every term has. A term's own settings class is named <Term>Settings and narrows `term` to one name."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    term: str

    @property
    def needs(self) -> Needs:
        """What this term asks for."""
        return Needs()

    @property
    def roles(self) -> dict[str, TurnSettings]:
        """Roles that this term brings: RoleSettings for one with a network of its own."""
        return {}

    @property
    def parts(self) -> int:
        """Teacher steps within one step of the student."""
        return 1

    @property
    def frozen(self) -> tuple[str, ...]:
        """Frozen networks besides "teacher" that this term reads, by role: TEACHER_NETWORK, START."""
        return ()

    @property
    def sees_samples(self) -> bool:
        """Whether this term is given the samples that states stand for: a latent's image, by the autoencoder."""
        return False

    @property
    def trains(self) -> tuple[str, ...]:
        """Roles that this term has a loss for: one of them is trained in each turn."""
        return ("student",)

    @property
    def second_time(self) -> bool:
        """Whether this term tells the student a second time."""
        return False

    @property
    def differentiates_forwards(self) -> bool:
        """Whether a forward derivative is taken of a call that has a gradient too: under gradient checkpointing in two
        calls, which differ by rounding."""
        return False

    @property
    def offers(self) -> tuple[str, ...]:
        """What other terms of its round may ask of this term: keys of OFFERED."""
        return ()

    @property
    def asks(self) -> tuple[str, ...]:
        """What this term asks of another term of its round: keys of OFFERED."""
        return ()
