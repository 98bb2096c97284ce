"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.config import Strict


class LinearReward(Strict):
    """r(x) = <direction, x>, x flattened; dimensions that `direction` does not name count 0."""

    kind: Literal["linear"]
    direction: Annotated[list[float], Field(min_length=1)]


class ClassifierReward(Strict):
    """Log-probability of the sample's label: a mixture's exact posterior, else a classifier fitted to labelled data.

    Samples without a label have reward 0.
    """

    kind: Literal["classifier"]
    fit_steps: Annotated[int, Field(ge=1)] = 300
    """Updates of the classifier that is fitted to data."""


class PythonReward(Strict):
    """Any differentiable function (x (N, ...), condition (N,) or None) -> (N,), named "module:name"; x are samples in
    about [-1, 1], of a teacher of latents what its autoencoder makes of them."""

    kind: Literal["python"]
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


AnyReward = Annotated[LinearReward | ClassifierReward | PythonReward, Field(discriminator="kind")]


class RewardSettings(TermSettings):
    """The student's samples climb a differentiable reward."""

    term: Literal["reward"]
    reward: AnyReward
    clamp: float | None = None
    """Rewards count up to this; None: without limit."""

    @property
    def sees_samples(self) -> bool:
        return self.reward.kind == "python"

    @property
    def needs(self) -> Needs:
        return Needs(data=self.reward.kind == "classifier", teacher=self.reward.kind == "classifier")
