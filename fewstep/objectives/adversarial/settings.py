"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.common.solver_step_settings import HopSettings
from fewstep.objectives.role_settings import TurnSettings
from fewstep.objectives.term_settings import COMPARED_STATES, DENSITY_RATIO, TEACHER_NETWORK, Needs, TermSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class GradientPenalty(Strict):
    """R1: how fast the logits of real samples may change."""

    kind: Literal["exact", "features", "approximate"] = "exact"
    """exact: squared gradient to the noised samples; features: to what the heads are given, of a frozen network (ADD),
    since one that is trained with them would grow until there is no penalty; approximate: squared change under a little
    noise."""
    weight: Positive = 0.1
    sigma: Positive = 0.05
    """approximate: the noise, as a share of the spread of what is judged."""


class HeadPool(Strict):
    """Many heads, of which each step asks a few and now and then begins some anew."""

    size: Count = 32
    asked: Count = 8
    """Heads that judge one step's batch, drawn anew at every step."""
    refreshed: Share = 0.01
    """Chance of each head to get fresh weights after a turn of the critic."""

    @model_validator(mode="after")
    def _consistent(self) -> "HeadPool":
        if self.asked > self.size:
            raise ValueError(f"asked: {self.asked} heads of a pool of {self.size}")
        return self


class AdversarialSettings(TermSettings):
    """Heads on features tell noised samples of the student from noised real ones."""

    term: Literal["adversarial"]
    features: Literal["fake_score", "teacher", "samples"] = "fake_score"
    """Whose inner features the heads read: the fake score's, which is trained with them (DMD2); the frozen teacher's
    (LADD); `samples`: those of `extractor` (ADD)."""
    extractor: str | None = None
    """samples: "module:function", which returns a frozen network x -> list of features; None: a small network of our
    own, trained with the heads."""
    at: Literal["samples", "hops", "compared"] = "samples"
    """samples: the student's samples against real ones; hops: where one step of the student lands, against where the
    teacher's finer steps do (SDXL-Lightning); compared: the states that the round's consistency term compares, against
    their targets (PCM)."""
    hop: HopSettings = HopSettings()
    paired: bool = False
    """hops: the critic also sees the state that the step began at, so that the student cannot leave its path."""
    real: Literal["data", "pairs"] = "data"
    """samples: what stands for real, data or the teacher's own samples."""
    loss: Literal["softplus", "hinge"] = "softplus"
    weight: Weight = 3e-3
    critic_weight: Weight = 1e-2
    """Weight of the heads' own loss in the turn in which they are trained."""
    turn: Literal["fake_score", "discriminator"] | None = None
    """In whose turn the heads are trained. None: the fake score's where they read its features, else one of their own
    (discriminator). The fake score's serves heads on what is frozen too: one batch of the student's samples trains
    both."""
    discriminator: TurnSettings = TurnSettings()
    """The heads' own turn."""
    width: Count = 64
    labels: bool = False
    """Adds a projection of the label to the logits (features of a conditional network know it already)."""
    gradient_penalty: GradientPenalty | None = None
    pool: HeadPool | None = None
    times: Times | None = UniformTimes(low=0.02, high=0.98)
    """Noise levels of what is judged; equal to another term's, the same noised samples and network calls serve both.
    None: clean samples."""

    @property
    def sees_samples(self) -> bool:
        return self.extractor is not None

    @property
    def critic(self) -> str:
        """The role in whose turn the heads are trained."""
        return self.turn or ("fake_score" if self.features == "fake_score" else "discriminator")

    @property
    def needs(self) -> Needs:
        source = {"samples": self.real, "hops": self.hop.source}.get(self.at)
        teacher = self.at == "hops" or self.features == "teacher"
        return Needs(data=source == "data", pairs=source == "pairs", teacher=teacher)

    @property
    def offers(self) -> tuple[str, ...]:
        told = self.loss == "softplus" and self.times is not None and self.at == "samples"
        return (DENSITY_RATIO,) if told else ()

    @property
    def asks(self) -> tuple[str, ...]:
        return (COMPARED_STATES,) if self.at == "compared" else ()

    @property
    def parts(self) -> int:
        return self.hop.teacher_steps if self.at == "hops" else 1

    @property
    def roles(self) -> dict[str, TurnSettings]:
        return {} if self.critic == "fake_score" else {"discriminator": self.discriminator}

    @property
    def frozen(self) -> tuple[str, ...]:
        return (TEACHER_NETWORK,) if self.features == "teacher" else ()

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", self.critic)

    @model_validator(mode="after")
    def _consistent(self) -> "AdversarialSettings":
        if self.features == "fake_score" and self.critic != "fake_score":
            raise ValueError("turn: heads on the fake score's features are trained with it, in its turn")
        if self.extractor and self.features != "samples":
            raise ValueError(f"extractor: goes with `features: samples`, not with {self.features}")
        if self.at != "samples" and (self.features == "fake_score" or self.extractor):
            raise ValueError(f"at: {self.at} goes with features of the teacher or of samples by a network of our own")
        if self.paired and self.at != "hops":
            raise ValueError(f"paired: goes with `at: hops`, not with {self.at}")
        if self.at != "samples" and self.real != "data":
            raise ValueError(f"real: goes with `at: samples`, not with {self.at}")
        trained = self.features == "fake_score" or (self.features == "samples" and not self.extractor)
        if trained and self.gradient_penalty is not None and self.gradient_penalty.kind == "features":
            raise ValueError("gradient_penalty: to features goes with those of a frozen network; take kind: exact")
        if self.times is None and self.features != "samples":
            raise ValueError("times: a network that was trained on noised samples needs noise levels")
        if self.times is None and self.at == "compared":
            raise ValueError("times: what is compared is judged at more noise; give its levels")
        return self
