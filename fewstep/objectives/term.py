"""What a term is: a loss for each role that it trains, from one step's networks and keyed draws."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from fewstep.diffusion.noise_level_settings import Times
from fewstep.objectives.term_settings import TermSettings

if TYPE_CHECKING:
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step

S = TypeVar("S", bound=TermSettings)
Loss = tuple[Tensor, dict[str, Tensor]]


class Judged(NamedTuple):
    """What a network is asked of: the role, and the noised samples by their name and noise levels, as
    `SharedPredictions.raised` takes them."""

    role: str
    samples: str
    times: Times


class Term(Generic[S]):
    """One summand of an objective.

    A term is stateless between steps: what it trains besides the roles' networks stands in `heads`, which the loop
    optimises and checkpoints.
    """

    def __init__(self, settings: S):
        self.settings = settings
        self.heads: dict[str, nn.Module] = {}

    @property
    def name(self) -> str:
        """The term's name in a recipe, which is that of its folder."""
        return self.settings.term

    def prepare(self, step: "Step", seed: int) -> None:
        """Builds `heads`, by the role in whose turn each is trained; called once, with a step to look at shapes.

        Heads are initialised from `seed`.
        """

    def require(self, facts: "NetworkFacts") -> None:
        """Raises SettingsError where such a teacher's network, or its conditions, cannot serve this term: called before
        any work."""

    def loss(self, step: "Step") -> Loss:
        """The unweighted loss of the role `step.role` on one batch: a scalar, and named statistics for the log."""
        raise NotImplementedError

    def after_update(self, step: "Step") -> None:
        """Called once after each update of `step.role`, with the whole batch; what is random comes from the step."""

    def weight(self, role: str) -> float:
        """Weight of the loss in the turn of `role`."""
        return self.settings.weight

    def trains(self, role: str) -> bool:
        """Whether this term has a part in the turn of `role`."""
        return role in self.settings.trains and self.weight(role) > 0

    def predictions(self, turn: str) -> Sequence[Judged]:
        """What this term asks of `step.shared.judged` in the turn of a role, without guidance: features that a term
        reads there come with the same call. What is not told here costs a call of its own, and is right all the same.
        """
        return ()

    def features(self, turn: str) -> Sequence[Judged]:
        """What this term asks of `step.shared.features` in the turn of a role, with a graph in the student's turn."""
        return ()

    def target_decay(self, progress: float) -> float | None:
        """Decay per update of `networks["target"]`, the student's moving average, at this share of the round.

        None: this term asks for no such network.
        """
        return None

    def reads_features(self, role: str) -> bool:
        """Whether this term reads inner features of `role`, through which it differentiates in the student's turn."""
        return False

    @property
    def differentiates_twice(self) -> bool:
        """Whether this term differentiates a gradient that goes through the network of a role."""
        return False

    def differentiates(self, role: str) -> bool:
        """Whether this term differentiates a prediction of the frozen `role` to its input in the student's turn."""
        return False
