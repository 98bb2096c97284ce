"""A teacher folder made of the files of a given one: one copy on the disk, only what is read, recorded once."""

import json
import os

import pytest
import torch
from diffusers import DiffusionPipeline

import fewstep.teachers.loading
from fewstep.families.recorded_conditions import table_of
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.saving import link_pipeline
from tests.fewstep.families.pipelines import KINDS

PROMPTS = ["a red apple", "two blue cars on a road"]


def linked(kind, source, target, variant=None):
    """The teacher of a saved folder, linked into another one, and what was inspected."""
    info, teacher = inspect_teacher(source, variant), load_teacher(source, variant, KINDS[kind].arguments)
    link_pipeline(info, target, teacher)
    return info, teacher


def output(teacher):
    x = torch.randn((2, *teacher.sample_shape), generator=torch.Generator().manual_seed(0))
    return teacher.predict(x, 0.5, torch.tensor([0, 1])).output


@pytest.mark.parametrize("kind", ["sd", "sd3", "flux", "dit", "cogvideox"])
def test_the_folder_is_the_same_teacher_and_is_not_recorded_again(tmp_path, monkeypatch, kind):
    pipe = KINDS[kind].save(tmp_path / "given")
    info, teacher = linked(kind, tmp_path / "given", tmp_path / "own")
    assert all(os.path.samefile(path, tmp_path / "own" / path.relative_to(info.folder)) for path in info.weights)
    monkeypatch.delattr(fewstep.teachers.loading, "record_family")
    again = load_teacher(tmp_path / "own")
    assert again.family.to_dict() == teacher.family.to_dict() and again.sample_shape == teacher.sample_shape
    assert again.process == teacher.process and not again.training
    for one in (teacher, again):
        if kind != "dit":
            one.take(table_of(pipe, one.family, PROMPTS))
    assert torch.equal(output(again), output(teacher))
    link_pipeline(inspect_teacher(tmp_path / "own"), tmp_path / "further", again)
    texts = [(tmp_path / name / "fewstep.json").read_text() for name in ("own", "further")]
    assert texts[0] == texts[1] and texts[0].count('"constants"') == 1
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "own"), type(pipe))


@pytest.mark.parametrize("max_shard_size", ["10GB", "40kB"])
def test_of_several_variants_the_chosen_one_is_linked_as_the_plain_one(tmp_path, max_shard_size):
    pipe = KINDS["sd"].save(tmp_path / "given")
    pipe.to(torch.float16).save_pretrained(tmp_path / "given", variant="fp16", max_shard_size=max_shard_size)
    linked("sd", tmp_path / "given", tmp_path / "own", "fp16")
    again = DiffusionPipeline.from_pretrained(tmp_path / "own", torch_dtype=torch.float16)
    for name in ("unet", "vae", "text_encoder"):
        wanted, found = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), name
    assert inspect_teacher(tmp_path / "own").parameters == inspect_teacher(tmp_path / "given", "fp16").parameters
    sizes = [path.stat().st_size for path in (tmp_path / "own" / "unet").glob("*.safetensors")]
    assert (len(sizes) > 1) == (max_shard_size == "40kB")
    assert sum(sizes) < 0.6 * (tmp_path / "given" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size


def test_pickles_code_and_what_no_part_is_stay_behind(tmp_path):
    given = tmp_path / "given"
    KINDS["sd"].save(given)
    index = json.loads((given / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}  # fmt: skip
    (given / "model_index.json").write_text(json.dumps(index))
    for name in ("safety_checker/config.json", "feature_extractor/preprocessor_config.json", "notes/more.json"):
        (given / name).parent.mkdir()
        (given / name).write_text("{}")
    for name in ("safety_checker/pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "unet/pipeline.py",
                 "vae/diffusion_pytorch_model.fp16.safetensors", "tokenizer/__init__.py"):  # fmt: skip
        (given / name).write_bytes(b"x")
    linked("sd", given, tmp_path / "own")
    found = {str(path.relative_to(tmp_path / "own")) for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert found == {
        *("fewstep.json", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json"),
        *("text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"),
        *("vae/diffusion_pytorch_model.safetensors", "feature_extractor/preprocessor_config.json"),
    }
    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None] and index["requires_safety_checker"] is False


def test_links_are_of_the_file_behind_a_symbolic_link_and_else_a_copy(tmp_path, monkeypatch):
    KINDS["dit"].save(tmp_path / "given")
    for path in (tmp_path / "given").rglob("*.safetensors"):  # as the hub's cache keeps them
        path.rename(tmp_path / path.parent.name)
        path.symlink_to(tmp_path / path.parent.name)
    info, teacher = linked("dit", tmp_path / "given", tmp_path / "own")
    place = tmp_path / "own" / info.weights[0].relative_to(info.folder)
    assert not place.is_symlink() and os.path.samefile(place, info.weights[0])

    def other_file_system(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_file_system)
    link_pipeline(info, tmp_path / "copied", teacher)
    copy = tmp_path / "copied" / info.weights[0].relative_to(info.folder)
    assert not os.path.samefile(copy, place) and copy.read_bytes() == place.read_bytes()
