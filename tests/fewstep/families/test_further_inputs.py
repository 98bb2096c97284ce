"""Pipelines whose denoisers are given images too: they are a condition like any other, found by recording; what does
something else with an image is refused with what was seen, by `fewstep inspect` and before any work of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v

from fewstep.families.codec import Codec
from fewstep.families.family import Family
from fewstep.families.image_arguments import image_inputs
from fewstep.families.recorded_conditions import table_of
from fewstep.families.recorded_family import record_family
from fewstep.teachers import load_teacher
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tests.fewstep.families import pipelines
from tests.fewstep.families.image_pipelines import SEEING, blended, noised, picture
from tests.fewstep.families.test_replay import PROMPTS, SCALE, Watched, native, unguided

ROOT = Path(__file__).parents[3]
WANTED = dict.fromkeys(SEEING, ["image"]) | {
    "inpainting": ["image", "mask_image"], "controlled_flow": ["control_image"], "controlled_tokens": ["control_image"],
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SEEING))
def loaded(request, tmp_path_factory) -> tuple[str, Any, Any]:
    """Name, pipeline, and the teacher that was loaded from its folder."""
    with pytest.MonkeyPatch.context() as patch:     # a package that this pipeline cannot go without
        patch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)
        folder = tmp_path_factory.mktemp(request.param)
        pipe = SEEING[request.param].save(folder)
        teacher = load_teacher(folder, arguments=SEEING[request.param].arguments)
        yield request.param, pipe, teacher


def given(teacher: Any) -> dict[str, Any]:
    """Two images by argument."""
    images = teacher.family.images
    return {name: [picture(images.size, seed, "L" if "mask" in name else "RGB") for seed in (0, 1)]
            for name in images.names}  # fmt: skip


def test_images_become_a_part_of_the_condition(loaded):
    kind, pipe, teacher = loaded
    family = teacher.family
    assert list(family.images.names) == WANTED[kind] and family.call.rows is None
    if kind.startswith("controlled"):
        assert family.call.joined is None and family.call.side.part == "controlnet"
        own = ["controlnet.controlnet_cond"] + ["controlnet.pooled_projections"] * (kind == "controlled_flow")  # zeros
        assert sorted(name for name in family.fields if "." in name) == own
    elif kind == "first_tokens":
        assert family.call.still == "still" and family.call.joined is None and family.fields["still"].shape == (64, 8)
    else:
        assert family.call.joined == "joined" and family.call.side is None and family.call.still is None
    again = Family.from_dict(json.loads(json.dumps(family.to_dict())))
    assert again.to_dict() == family.to_dict() and again.images == family.images
    height, width = Codec(pipe, family).sample_shape[-2:]
    ratio = 2 if kind == "upscaler" else 1
    assert (height, width) == tuple(ratio * side for side in family.images.size)


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_predictions_are_those_of_the_pipeline(loaded, scale):
    kind, pipe, teacher = loaded
    if scale != 1.0 and teacher.family.guidance is None:
        assert kind in ("editing", "controlled_tokens")    # three branches; a control that sees one prompt for both
        return
    images, still = given(teacher), teacher.family.call.still
    tokens = teacher.family.fields[still].shape[0] if still else 0     # of which what the network says is not heard
    teacher.take(table_of(pipe, teacher.family, PROMPTS, images=images, seeds=[5, 6]))
    for place, seed in enumerate((5, 6)):
        image = {name: pair[place] for name, pair in images.items()}
        asked = {"prompt": [PROMPTS[place]], **teacher.family.images.of(image, 1)}
        how = unguided(pipe) if scale == 1.0 else {"guidance_scale": scale}
        seen = Watched(pipe, teacher.family.part, seed=seed, **SEEING[kind].arguments, **asked, **how)
        for (state, scaled, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
            x = (scaled if still or scaled.shape == state.shape else state)[:1]     # as the scheduler scales it
            at = native(teacher, timestep)
            got = teacher.predict(x, at, torch.tensor([place]), scale).output[:, tokens:]
            branches = [out.chunk(2) for out in outputs] if len(outputs) == 1 and scale != 1 else [outputs]
            wanted = [branches[0][0]] if scale == 1 else [
                other + scale * (one - other) for one, other in (branches[0], branches[0][::-1])]
            assert min(float((got - some[:, tokens:]).abs().max()) for some in wanted) < 1e-4


def test_decoding_needs_no_encoder_of_texts(loaded):
    _, pipe, teacher = loaded
    bare = type(pipe)(**{name: None if name.startswith("text_encoder") else part
                         for name, part in pipe.components.items()})  # fmt: skip
    states = torch.randn(2, *teacher.family.state, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Codec(bare, teacher.family).decode(states), Codec(pipe, teacher.family).decode(states))


def test_other_images_are_another_condition(loaded):
    _, pipe, teacher = loaded
    images, same = given(teacher), [PROMPTS[0]] * 2
    teacher.take(table_of(pipe, teacher.family, same, images=images, seeds=[5, 5]))
    x = torch.randn((1, *teacher.sample_shape), generator=torch.Generator().manual_seed(0)).expand(2, *[
        -1 for _ in teacher.sample_shape])
    one, other = teacher.predict(x, 0.5, torch.arange(2)).output
    assert not torch.equal(one, other)


REFUSED = {
    "noised": (noised, "StableDiffusionImg2ImgPipeline: sampling begins at a state that image changes, not at noise"),
    "blended": (blended, "StableDiffusionInpaintPipeline: image changes nothing that the denoiser is given"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_something_else_with_an_image_is_refused_with_what_was_seen(kind, tmp_path):
    make, said = REFUSED[kind]
    pipe = make()
    with pytest.raises(SettingsError) as told:
        record_family(pipe)
    assert said in str(told.value)
    pipe.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("\n".join(pipelines.LINES))
    settings = parse(Settings, {"teacher": {"source": "pipeline"}, "data": {"prompts": "prompts.txt"},
                                "distill": {"recipe": "tdm"}}, "params.yaml")  # fmt: skip
    with pytest.raises(SettingsError, match=said):
        validate(tmp_path, settings)


def test_a_package_that_diffusers_goes_without_is_named(monkeypatch):
    monkeypatch.delattr(pipeline_wan_i2v, "ftfy", raising=False)
    with pytest.raises(SettingsError, match="name 'ftfy' is not defined"):
        record_family(SEEING["image_to_video"].build(), SEEING["image_to_video"].arguments)


def test_inspect_ends_with_exit_code_2(tmp_path):
    noised().save_pretrained(tmp_path / "pipeline")
    done = subprocess.run([sys.executable, "-m", "flows.cli", "inspect", str(tmp_path / "pipeline")], cwd=ROOT,
                          text=True, capture_output=True, env=os.environ | {"COLUMNS": "400"})  # fmt: skip
    assert done.returncode == 2 and "sampling begins at a state that image changes" in done.stderr, done.stderr


def test_pipelines_of_texts_and_classes_take_no_images():
    assert {kind: image_inputs(type(one.build())) for kind, one in pipelines.KINDS.items()
            if kind not in ("sd-v",)} == {kind: [] for kind in pipelines.KINDS if kind != "sd-v"}  # fmt: skip
