"""A ControlNet rests beside the denoiser: it goes with bfloat16, counts as memory, and is part of what a checkpoint
belongs to. That its pipelines are replayed: test_further_inputs.py."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.recorded_conditions import table_of
from fewstep.recipes import Overrides, load_recipe
from fewstep.teachers import load_teacher
from fewstep.training.distillation import Distillation, network_digest
from fewstep.training.rehearsal.rounds import Machine, rehearse
from fewstep.training.rehearsal.stand_ins import Conditions
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.util.errors import SettingsError
from tests.fewstep.families.image_pipelines import SEEING
from tests.fewstep.families.recipe_matrix import quick
from tests.fewstep.families.teachers import teacher as plain_teacher
from tests.fewstep.families.test_further_inputs import given
from tests.fewstep.families.test_replay import PROMPTS, Watched, native, unguided

CONTROLLED = [kind for kind in SEEING if kind.startswith("controlled")]
BATCH = 4


@cache
def _loaded(kind: str) -> tuple[Any, Denoiser]:
    with tempfile.TemporaryDirectory() as folder:
        pipe = SEEING[kind].save(Path(folder))
        return pipe, load_teacher(folder, arguments=SEEING[kind].arguments)


def teacher(kind: str, pipe: Any = None) -> Denoiser:
    """The teacher of this kind, a copy, with conditions of two prompts and images as `pipe` makes them."""
    own, found = _loaded(kind)
    found = copy.deepcopy(found)
    return found.take(table_of(pipe or own, found.family, PROMPTS, images=given(found), seeds=[5, 6]))


def controlled_by(denoiser: Denoiser, network: torch.nn.Module) -> Denoiser:
    """The same denoiser beside another network of the same kind."""
    call = denoiser.adapter.call
    denoiser.adapter = replace(denoiser.adapter, call=replace(call, side=call.side.attached(network)))
    return denoiser


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONTROLLED)
def test_its_outputs_go_on_in_the_type_of_the_state(kind, own):
    half = copy.deepcopy(_loaded(kind)[0]).to(torch.bfloat16)
    found = teacher(kind, half)
    found.network.to(torch.bfloat16)
    controlled_by(found, copy.deepcopy(found.beside).to(own))
    shown = found.family.images.of({name: pair[0] for name, pair in given(found).items()}, 1)
    seen = Watched(half, found.family.part, seed=5, prompt=PROMPTS[:1], **shown, **SEEING[kind].arguments,
                   **unguided(half))  # fmt: skip
    for (_, state, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
        assert state.dtype == outputs[0].dtype == torch.bfloat16
        got, wanted = found.predict(state.float(), native(found, timestep), torch.tensor([0])).output, outputs[0]
        rounding = 0.1 * float(wanted.float().std()) if own == torch.float32 else 0.0   # of the stock network alone
        assert got.dtype == torch.float32 and float((got - wanted).abs().max()) <= rounding


def distilled(denoiser: Denoiser, folder: Path, steps: int = 6, **more: Any) -> dict[str, float]:
    """Figures of training by dmd2, which refuses losses that are not finite; BATCH samples a step."""
    told: dict[str, float] = {}
    x = torch.randn(2 * BATCH, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    job = Distillation(quick("dmd2").override(Overrides(**more)), denoiser, RunOptions(steps * BATCH, 0, folder),
                       data=TensorData(x, torch.arange(2 * BATCH) % 2))  # fmt: skip
    student = job.student_after(0, lambda _done, _round, figures: told.update(figures))
    assert student.sample(x[:2], condition=torch.arange(2)).isfinite().all()
    return told


@pytest.mark.parametrize("kind", CONTROLLED)
def test_training_beside_it_in_bfloat16_is_finite(kind, tmp_path):
    told = distilled(teacher(kind), tmp_path, precision="bfloat16", frozen="bfloat16")
    assert told and torch.tensor(list(told.values())).isfinite().all()


def test_a_checkpoint_beside_another_one_is_refused(tmp_path):
    found = teacher("controlled")
    distilled(copy.deepcopy(found), tmp_path)
    assert distilled(copy.deepcopy(found), tmp_path) == {}      # read, not trained again
    other = copy.deepcopy(found.beside)
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    changed = controlled_by(copy.deepcopy(found), other)
    assert network_digest(changed) != network_digest(found)
    with pytest.raises(SettingsError, match=r"checkpoint in .* is of other settings: beside was [0-9a-f]+, is"):
        distilled(changed, tmp_path)


def test_a_teacher_without_one_has_the_digest_that_it_had(tmp_path):
    own = plain_teacher("sd")
    distilled(own, tmp_path)
    record = next((tmp_path / "round-1" / "checkpoints").glob("*.json")).read_text()
    assert '"start"' in record and '"beside"' not in record


def test_it_counts_as_memory_and_takes_no_gradient():
    found = copy.deepcopy(_loaded("controlled")[1])
    own, beside = (sum(p.numel() for p in network.parameters()) for network in (found.network, found.beside))
    assert copy.deepcopy(found).beside is found.beside and not any(p.requires_grad for p in found.beside.parameters())
    assert not any("controlnet" in name for name in found.state_dict())
    for _ in range(2):      # the next rehearsal has weights of its own
        fresh = copy.deepcopy(found)
        fresh.take(Conditions(fresh.family.fields, True))
        roles = {one.role: one.weights for one in rehearse(load_recipe("lcm"), fresh, Machine(gpu=False))[0].roles}
        assert roles["teacher"] > 4 * (own + beside) and roles["student"] < 4 * (own + beside)
