"""A measured value never travels without its protocol, and values under different protocols are never compared.

No torch here: promotion and summaries read values without loading a network.
"""

import hashlib
import json
import math
from collections.abc import Mapping

from pydantic import ConfigDict, Field, model_serializer

from fewstep.diffusion.guidance import SampledScales
from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError

CONFIDENCE = 0.95
"""Level of every interval in this project."""
NORMAL_QUANTILE = 1.959963984540054
"""Two-sided standard normal quantile at `CONFIDENCE`."""
REAL, REDRAWN = "real images", "teacher again"
"""Subjects of the floor, by what the reference is: what it scores against more of its own kind."""


class ProtocolsDiffer(SettingsError):
    """Two values that were to be compared were measured differently. The message says what differs."""


class Sampling(Strict):
    """How a model's samples were drawn: what is compared, as against the protocol, under which it is compared."""

    solver: str
    """Of the teacher; of a student the kind of its sampler."""
    steps: int = Field(ge=1)
    evaluations: int = Field(ge=1)
    """Network evaluations per sample."""
    guidance: SampledScales = 1.0


class Protocol(Strict):
    """All that must agree before two values of one metric may be compared.

    What was measured (which model, solver, steps) differs between values that are worth comparing, so it is no part of
    the equality; it travels beside the protocol, in `Value.subject` and `Value.sampling`.
    """

    metric: str
    samples: int = Field(ge=1)
    seed: int
    """Seed of the sampling noise and of the order in which samples are split."""
    noise: str
    """Purpose under which the noise is keyed, or the split that real samples come from."""
    conditions: str
    """How the classes asked for were chosen."""
    reference: str
    """What the samples were compared with, in words."""
    reference_samples: int = Field(ge=0)
    reference_digest: str
    """SHA-256 of the reference images (or of what else the value refers to)."""
    reference_statistics: str = ""
    """Hash of what the reference's statistics are computed from: images, split, extractor and how it sees them."""
    features: str
    """Name of the feature extractor; never Inception's unless it is."""
    features_digest: str
    dimensions: int = Field(ge=1)
    value_range: str = "[-1, 1]"
    clipped: bool = True
    quantised: str = "8 bit"
    resized: str = "no"
    """Size and interpolation of what the extractor is given."""
    antialiased: bool = False
    """Whether that interpolation smooths before it shrinks."""
    seen: str = Field(default="", exclude_if=lambda seen: not seen)
    """How an extractor of images comes to see samples of another medium."""
    parameters: dict[str, int | float | str] = {}
    """Of the metric itself: k, kernel, subsets, confidence."""

    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of all fields; equal digests mean equal protocols."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Protocol") -> list[str]:
        """`field: this one, that one` for every field that differs."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{name}: {mine[name]!r}, {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


class Value(Strict):
    """One measured number with what it takes to read it."""

    value: float
    n: int = Field(ge=1)
    """Samples behind the value."""
    interval: tuple[float, float] | None
    """95 % confidence interval; None where the number is exact."""
    protocol: Protocol
    subject: str
    """What was measured, such as `student, 1 step`."""
    sampling: Sampling | None = None
    """How the samples were drawn; None for real images."""

    def over(self, other: "Value") -> float:
        """This value divided by another under the same protocol.

        Raises:
            ProtocolsDiffer: the protocols differ.
            SettingsError: the other value is not positive, so that a ratio says nothing.
        """
        ensure_comparable(self, other)
        if other.value <= 0:
            raise SettingsError(
                f"{self.protocol.metric}: no ratio to {other.value:.4g} ({other.subject}), which is not positive"
            )
        return self.value / other.value

    def above_floor(self, floor: "Value") -> float:
        """Excess over the real-against-real floor, which may differ in its samples and in nothing else.

        Only for metrics whose expectation does not depend on the number of samples (extrapolated Fréchet, unbiased
        KID). Raises ProtocolsDiffer.
        """
        alike = {"samples": 1, "noise": "", "conditions": "", "seed": 0}
        ensure_comparable(self.model_copy(update={"protocol": self.protocol.model_copy(update=alike)}),
                          floor.model_copy(update={"protocol": floor.protocol.model_copy(update=alike)}))
        return self.value - floor.value


def ensure_comparable(a: Value, b: Value) -> None:
    """Raises ProtocolsDiffer, naming what differs, unless both values were measured under one protocol."""
    found = a.protocol.differences(b.protocol)
    if found:
        raise ProtocolsDiffer(
            f"{a.subject} and {b.subject} cannot be compared, their protocols differ in {'; '.join(found)}"
        )


def rounded(x: float) -> float | None:
    """Six significant digits, the precision of every stored number; None for NaN and infinity, which JSON lacks."""
    return float(f"{x:.6g}") if math.isfinite(x) else None


class StoredValue(Strict):
    """A `Value` as documents hold it, with six significant digits.

    `protocol` is the digest under which the document keeps the protocol; subject and sampling stand beside the values.
    """

    value: float
    n: int
    interval: tuple[float, float] | None
    protocol: str


class ClassFigures(Strict):
    """Figures of one class or group of prompts, each with its 95 % interval, rounded as stored values are.

    Attributes:
        name: of the class; `class` in JSON.
        n: samples that were asked for with this class.
        reference: reference images of the class.
        accuracy: share of the n samples that the extractor recognises as the class; None for groups of prompts.
        mmd: kernel distance to the reference images of the class, and
        diversity: mean distance within it over that of the reference images; None (and left out of JSON) where there
            are fewer than three samples or reference images.
        retrieval: share of the n samples whose prompt is found among others; None for classes.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: str = Field(alias="class")
    n: int
    reference: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    mmd: float | None = None
    mmd_interval: tuple[float, float] | None = None
    diversity: float | None = None
    diversity_interval: tuple[float, float] | None = None
    retrieval: float | None = None
    retrieval_interval: tuple[float, float] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialise) -> dict:
        return {name: value for name, value in serialise(self).items() if value is not None}


class FrameFigures(Strict):
    """How far one frame of a model's videos is from the same frame of the reference's.

    Attributes:
        frame: its number, the first is 1.
        n: videos.
        mmd: kernel distance, with its 95 % interval.
    """

    frame: int
    n: int
    mmd: float | None
    interval: tuple[float | None, float | None]


def store(values: Mapping[str, Value], protocols: dict[str, Protocol]) -> dict[str, StoredValue]:
    """Values as documents hold them; the protocols themselves are added to `protocols`, by digest."""
    stored = {}
    for name, value in values.items():
        digest = value.protocol.digest()
        protocols[digest] = value.protocol
        interval = value.interval and (rounded(value.interval[0]), rounded(value.interval[1]))
        stored[name] = StoredValue(value=rounded(value.value), n=value.n, interval=interval, protocol=digest)
    return stored


def restore(stored: Mapping[str, StoredValue], protocols: Mapping[str, Protocol], subject: str,
            sampling: Sampling | None = None) -> dict[str, Value]:  # fmt: skip
    """The inverse of `store`, up to the rounding."""
    return {
        name: Value(value=entry.value, n=entry.n, interval=entry.interval, protocol=protocols[entry.protocol],
                    subject=subject, sampling=sampling)
        for name, entry in stored.items()
    }
