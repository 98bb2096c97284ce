"""Pipelines whose denoisers are given images too, at several sizes of samples: an image is of its sample's size, and
what is made of it is stored in one table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.codec import Codec
from fewstep.families.family import Family
from fewstep.families.recorded_conditions import record_conditions, record_nulls, table_of
from fewstep.families.recorded_family import record_family
from fewstep.families.sized_fields import SizedFields
from fewstep.teachers import load_teacher
from fewstep.util.errors import SettingsError
from tests.fewstep.families.image_pipelines import SEEING, picture
from tests.fewstep.families.test_replay import PROMPTS, Watched, native, unguided

SIZES = [(32, 32), (32, 48), (48, 32)]
OF_VIDEOS = [(16, 16), (16, 32), (32, 16)]
BY_IMAGE = ("editing", "upscaler")      # their calls are told no size


@pytest.fixture(scope="module", params=list(SEEING))
def loaded(request, tmp_path_factory) -> tuple[str, Any, Denoiser]:
    """Name, pipeline, and the teacher that was loaded from its folder for samples of three sizes."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:     # a package that this pipeline cannot go without
        patch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)
        pipe = SEEING[kind].save(folder)
        family = record_family(pipe, SEEING[kind].arguments, sizes_of(kind))
        yield kind, pipe, load_teacher(folder, family=family)


def sizes_of(kind: str) -> list[tuple[int, int]]:
    if kind == "first_tokens":      # whose sides are divided by 32
        return [(32, 32), (32, 64), (64, 32)]
    return OF_VIDEOS if SEEING[kind].arguments.get("num_frames") else SIZES


def shown(family: Family) -> dict[str, list[Any]]:
    """Two images by argument, of the family's size."""
    return {name: [picture(family.images.size, seed, "L" if "mask" in name else "RGB") for seed in (0, 1)]
            for name in family.images.names}  # fmt: skip


def test_images_states_and_fields_are_of_the_samples_size(loaded):
    kind, pipe, teacher = loaded
    family = teacher.family
    assert family.pixels == sizes_of(kind) and (family.own_pixels is not None) == (kind in BY_IMAGE)
    again = Family.from_dict(json.loads(json.dumps(family.to_dict())))
    assert again.to_dict() == family.to_dict() and again.at(2).to_dict() == family.at(2).to_dict()
    for number, pixels in enumerate(family.pixels):
        own = family.at(number)
        assert Codec(pipe, own).sample_shape[-2:] == pixels
        assert own.images.size == tuple(side // (2 if kind == "upscaler" else 1) for side in pixels)
        alone = record_family(pipe, SEEING[kind].arguments, [pixels])
        assert (own.state, own.fields, own.images) == (alone.state, alone.fields, alone.images)


def test_predictions_at_another_size_are_those_of_the_pipeline(loaded):
    kind, pipe, teacher = loaded
    for number in (1, 2):
        one = teacher.sized(number)
        family, images = teacher.family.at(number), shown(teacher.family.at(number))
        still = family.call.still
        tokens = family.fields[still].shape[0] if still else 0      # of which what the network says is not heard
        one.take(table_of(pipe, family, PROMPTS, images=images, seeds=[5, 6]))
        asked = {"prompt": PROMPTS[:1], **family.images.of({name: pair[0] for name, pair in images.items()}, 1)}
        seen = Watched(pipe, family.part, seed=5, **{**family.arguments, **asked}, **unguided(pipe))
        for (state, scaled, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
            x = (scaled if still or scaled.shape == state.shape else state)[:1]
            got = one.predict(x, native(teacher, timestep), torch.tensor([0])).output
            assert float((got - outputs[0][:1])[:, tokens:].abs().max()) < 1e-4


def test_rows_of_all_sizes_are_stored_in_one_shape_and_read_in_their_own(loaded):
    _, pipe, teacher = loaded
    family = teacher.family
    fields, stored = SizedFields(family), []
    for number in range(3):
        own = family.at(number)
        asked = {"prompt": PROMPTS, **shown(own)}
        for record in (record_conditions, record_nulls):
            rows = record(pipe, own, asked, 2, [5, 6])
            if rows is None:
                continue
            stored.append(fields.stored(rows))
            read = fields.read(stored[-1], number)
            assert all(torch.equal(read[name], value) for name, value in rows.items()) and list(read) == list(rows)
            assert all(fields.numbers(name) == value[0].numel() for name, value in stored[-1].items())
    assert fields and all(torch.cat([rows[name] for rows in stored]).shape for name in stored[0])


@pytest.mark.parametrize(("kind", "said"), [
    ("editing", "samples of another size than 33x32"), ("upscaler", "samples of another size than 33x32"),
    ("inpainting", "have to be divisible by 8 but are 32 and 33"),
])  # fmt: skip
def test_a_size_that_the_pipeline_cannot_make_is_refused(kind, said):
    with pytest.raises(SettingsError, match=said):
        record_family(SEEING[kind].build(), {}, [(32, 32), (32, 33)])
