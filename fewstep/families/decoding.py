"""The end of a pipeline's sampling: samples of states."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.families.family import Family
from fewstep.families.recording import last_step, zeros
from fewstep.families.trial import call_arguments, probe


def decoding(pipe: Any, family: Family, states: Tensor, output_type: str) -> Any:
    """What the pipeline returns for states (N, *state) at the end of its sampling, without denoiser and encoders."""
    arguments = call_arguments(pipe, {**family.arguments, **probe(pipe, 1)}, guided=False)
    for name in ("prompt", "class_labels", "batch_size"):
        if name in arguments:
            arguments[name] = len(states) if name == "batch_size" else arguments[name] * len(states)
    if family.images is not None:
        arguments |= family.images.of(family.images.some(), len(states))
    return last_step(pipe, arguments, states, zeros(family.prompts, len(states)), output_type,
                     whole=family.call.still is not None)  # fmt: skip
