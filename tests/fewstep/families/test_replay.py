"""A denoiser loaded from a pipeline's folder says at every step what the pipeline's own denoiser was asked and said."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion.guidance import calls
from fewstep.diffusion.processes import EDM, VariancePreserving, like
from fewstep.families.family import Family
from fewstep.families.recorded_conditions import table_of
from fewstep.families.recording import STATES
from fewstep.teachers import load_teacher
from tests.fewstep.families.pipelines import KINDS

PROMPTS = ["a red apple", "two blue cars on a road"]
SCALE = 4.0
STEPS = 3


def batch(tensors: Tensor | list[Tensor]) -> Tensor:
    """Of a list with a tensor for every sample (N, …)."""
    return tensors if isinstance(tensors, Tensor) else torch.stack(list(tensors))


class Watched:
    """Every evaluation of a pipeline's denoiser: the scheduler's state (N, …), what of it the denoiser is given, and
    time; raw outputs by branch."""

    def __init__(self, pipe: Any, part: str, seed: int = 1, **arguments: Any):
        self.states: list[tuple[Tensor, Tensor, float]] = []
        given: list[Tensor] = []
        self.outputs: list[list[Tensor]] = []
        network, scheduler, step = getattr(pipe, part), pipe.scheduler, pipe.scheduler.step

        def after(module: Any, values: Any, named: Any, output: Any) -> None:
            taken = inspect.signature(module.forward).bind(*values, **named).arguments
            given.append(batch(next(taken[name] for name in STATES if name in taken)).clone())
            self.outputs.append([]) if len(self.outputs) == len(self.states) else None
            self.outputs[-1].append(batch(output[0] if isinstance(output, tuple) else output.sample).detach().clone())

        def stepped(output: Tensor, timestep: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
            self.states.append((sample.clone(), given[-1][: len(sample)], float(timestep)))
            return step(output, timestep, sample, *more, **named)

        handle = network.register_forward_hook(after, with_kwargs=True)
        scheduler.step = stepped
        try:
            with torch.no_grad():
                pipe(**arguments, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed),
                     **({} if arguments.get("class_labels") else {"output_type": "latent"}))  # fmt: skip
        finally:
            handle.remove()
            del scheduler.step


def conditions(kind: str, pipe: Any, teacher: Any) -> tuple[dict[str, Any], Tensor]:
    """The pipeline's arguments for two samples, and the same as conditions of the denoiser."""
    if KINDS[kind].conditions == "class_labels":
        return {"class_labels": [3, 7]}, torch.tensor([3, 7])
    teacher.take(table_of(pipe, teacher.family, PROMPTS))
    return {"prompt": PROMPTS}, torch.arange(2)


def native(teacher: Any, timestep: float) -> float:
    """The process's own time of a scheduler's timestep."""
    if isinstance(teacher.process, EDM):
        return float(torch.tensor(timestep * 4).double().exp())
    return timestep / (teacher.adapter.scale / teacher.family.time_factor)


@pytest.fixture(scope="module", params=list(KINDS))
def loaded(request, tmp_path_factory) -> tuple[str, Any, Any, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    pipe = KINDS[request.param].save(folder)
    return request.param, pipe, load_teacher(folder, arguments=KINDS[request.param].arguments), folder


def raw(teacher: Any, x: Tensor, t: float, condition: Tensor, guidance: float = 1.0) -> Tensor:
    """The output in the pipeline's own terms, that is before EDM's preconditioning."""
    output = teacher.predict(x, t, condition, guidance).output
    if isinstance(teacher.process, EDM):
        _, _, skip, out = teacher.adapter.coefficients(torch.full((len(x),), t, dtype=torch.float64))
        output = (output - like(skip, x) * x) / like(out, x)
    return output


def unguided(pipe: Any) -> dict[str, float]:
    """Arguments under which the pipeline is not guided."""
    return {} if type(pipe).__name__.startswith("Flux") else {"guidance_scale": 1.0}


def test_predictions_are_those_of_the_pipeline(loaded):
    kind, pipe, teacher, _ = loaded
    asked, condition = conditions(kind, pipe, teacher)
    seen = Watched(pipe, teacher.family.part, **KINDS[kind].arguments, **asked, **unguided(pipe))
    assert len(seen.states) >= STEPS
    for (state, given, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
        assert state.shape[1:] == teacher.sample_shape
        x = state if isinstance(teacher.process, EDM) else given
        got = raw(teacher, x, native(teacher, timestep), condition)
        wanted = outputs[0][:, : x.shape[1]]
        # a chain's timesteps are whole numbers; a flow's are rounded, and EDM's preconditioning is taken off again
        tolerance = 0 if isinstance(teacher.process, VariancePreserving) else 1e-5
        assert torch.allclose(got, wanted, rtol=tolerance, atol=tolerance), float((got - wanted).abs().max())


def test_guided_predictions_are_those_of_the_pipeline(loaded):
    kind, pipe, teacher, _ = loaded
    asked, condition = conditions(kind, pipe, teacher)
    assert teacher.family.guidance == ("sequential" if kind in ("flux", "wan") else "joint") and calls(SCALE) == 2
    how = {"guidance_scale": SCALE}
    if kind == "flux":
        how = {"true_cfg_scale": SCALE, "negative_prompt": ["", ""]}
    seen = Watched(pipe, teacher.family.part, **KINDS[kind].arguments, **asked, **how)
    for (state, given, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
        branches = [out.chunk(2) for out in outputs] if len(outputs) == 1 else [outputs]
        x = (state if isinstance(teacher.process, EDM) else given)[: len(condition)]
        one, other = (branch[:, : x.shape[1]] for branch in branches[0])
        got = raw(teacher, x, native(teacher, timestep), condition, SCALE)
        both = [other + SCALE * (one - other), one + SCALE * (other - one)]
        errors = [float((got - wanted).abs().max()) for wanted in both]
        assert min(errors) < 1e-4, errors


def test_a_family_survives_its_description(loaded):
    _, _, teacher, _ = loaded
    again = Family.from_dict(json.loads(json.dumps(teacher.family.to_dict())))
    assert again.to_dict() == teacher.family.to_dict()
    x = torch.randn((2, *teacher.sample_shape), generator=torch.Generator().manual_seed(0))
    plain = teacher.predict(x, 0.5, torch.tensor([0, 1])).output
    teacher.adapter = type(teacher.adapter).from_dict(json.loads(json.dumps(teacher.adapter.to_dict())))
    assert torch.equal(teacher.predict(x, 0.5, torch.tensor([0, 1])).output, plain)
