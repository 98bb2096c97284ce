"""What a network predicts and how one prediction is turned into another, each formula once.

With x = α x0 + σ ε, in diffusers' names:

    sample            x0
    epsilon           ε
    v_prediction      α ε − σ x0         (Salimans & Ho, arXiv 2202.00512)
    flow_prediction   ε − x0             (rectified flow: dx/dt of x_t = (1 − t) x0 + t ε)

Each is affine in (x, output), so guidance may mix outputs of any of them.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fewstep.diffusion.made_of_tensors import MadeOfTensors
from fewstep.util.errors import SettingsError

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
_SQUARES = MadeOfTensors()


def to_x0(output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """x0 from a network's output; alpha and sigma broadcast against x."""
    if kind == "sample":
        return output
    if kind == "epsilon":
        return (x - sigma * output) / alpha
    if kind == "v_prediction":
        return (alpha * x - sigma * output) / _square(alpha, sigma)
    if kind == "flow_prediction":
        return (x - sigma * output) / (alpha + sigma)
    raise SettingsError(f"unknown prediction type {kind!r}; known: {', '.join(PREDICTION_TYPES)}")


def to_epsilon(output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """ε from a network's output; alpha and sigma broadcast against x."""
    if kind == "epsilon":
        return output
    if kind == "sample":
        return (x - alpha * output) / sigma
    if kind == "v_prediction":
        return (sigma * x + alpha * output) / _square(alpha, sigma)
    if kind == "flow_prediction":
        return (x + alpha * output) / (alpha + sigma)
    raise SettingsError(f"unknown prediction type {kind!r}; known: {', '.join(PREDICTION_TYPES)}")


def from_pair(x0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """The output of type `kind` that stands for the pair (x0, ε): also the training target of a network."""
    if kind == "sample":
        return x0
    if kind == "epsilon":
        return epsilon
    if kind == "v_prediction":
        return alpha * epsilon - sigma * x0
    if kind == "flow_prediction":
        return epsilon - x0
    raise SettingsError(f"unknown prediction type {kind!r}; known: {', '.join(PREDICTION_TYPES)}")


def convert(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, source: PredictionType, target: PredictionType
) -> Tensor:
    """A network's output of type `source` as type `target`."""
    if source == target:
        return output
    x0, epsilon = (step(output, x, alpha, sigma, source) for step in (to_x0, to_epsilon))
    return from_pair(x0, epsilon, alpha, sigma, target)


def _square(alpha: Tensor, sigma: Tensor) -> Tensor:
    return _SQUARES.of(alpha, lambda alpha, sigma: alpha**2 + sigma**2, sigma)
