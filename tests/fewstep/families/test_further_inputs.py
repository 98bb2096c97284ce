"""Pipelines whose denoisers are given more than a text: tried by recording, and refused with what was seen, by
`fewstep inspect` and before any work of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from fewstep.families.family import record_family
from fewstep.families.recording import image_inputs
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tests.fewstep.families import pipelines

ROOT = Path(__file__).parents[3]
_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def texts(unet: Any, **more: Any) -> dict[str, Any]:
    """The parts of a Stable Diffusion around a UNet."""
    return {"vae": pipelines.vae(), "text_encoder": pipelines.clip(), "tokenizer": pipelines.clip_tokenizer(),
            "unet": unet, "scheduler": pipelines.ddim(**more)}  # fmt: skip


def inpainting() -> Any:
    """Mask and masked image as five further channels."""
    return diffusers.StableDiffusionInpaintPipeline(**texts(pipelines.text_unet(9)), **_UNCHECKED)


def editing() -> Any:
    """The image as four further channels."""
    return diffusers.StableDiffusionInstructPix2PixPipeline(**texts(pipelines.text_unet(8)), **_UNCHECKED)


def upscaler() -> Any:
    """The small image as three further channels, its noise level as a class."""
    unet = pipelines.text_unet(7, num_class_embeds=1000)
    return diffusers.StableDiffusionUpscalePipeline(
        **texts(unet, prediction_type="v_prediction"), low_res_scheduler=diffusers.DDPMScheduler())


def image_to_video() -> Any:
    """The first frame as twenty further channels."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=32, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32)
    parts = {name: part for name, part in pipelines.wan().components.items() if name != "transformer_2"}
    return diffusers.WanImageToVideoPipeline(
        **{**parts, "transformer": transformer}, image_encoder=None, image_processor=None)


def controlled() -> Any:
    """A network beside the denoiser, which sees state and time too."""
    unet = pipelines.text_unet()
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    return diffusers.StableDiffusionControlNetPipeline(**texts(unet), controlnet=control, **_UNCHECKED)


FURTHER = {"inpainting": (inpainting, "StableDiffusionInpaintPipeline takes image, mask_image"),
           "editing": (editing, "StableDiffusionInstructPix2PixPipeline takes image"),
           "upscaler": (upscaler, "StableDiffusionUpscalePipeline takes image"),
           "image_to_video": (image_to_video, "WanImageToVideoPipeline takes image, last_image"),
           "controlled": (controlled, "StableDiffusionControlNetPipeline takes image")}  # fmt: skip


@pytest.mark.parametrize("kind", FURTHER)
def test_what_needs_images_is_refused_with_what_its_call_says(kind, tmp_path):
    make, said = FURTHER[kind]
    pipe = make()
    with pytest.raises(SettingsError) as told:
        record_family(pipe)
    assert said in str(told.value) and "a condition here is a text or a class; without them its call ends in: " in str(
        told.value)
    pipe.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("\n".join(pipelines.LINES))
    settings = parse(Settings, {"teacher": {"source": "pipeline"}, "data": {"prompts": "prompts.txt"},
                                "distill": {"recipe": "tdm"}}, "params.yaml")  # fmt: skip
    with pytest.raises(SettingsError, match=said):
        validate(tmp_path, settings)


def test_inspect_ends_with_exit_code_2(tmp_path):
    inpainting().save_pretrained(tmp_path / "pipeline")
    done = subprocess.run([sys.executable, "-m", "flows.cli", "inspect", str(tmp_path / "pipeline")], cwd=ROOT,
                          text=True, capture_output=True, env=os.environ | {"COLUMNS": "400"})  # fmt: skip
    assert done.returncode == 2 and "takes image, mask_image" in done.stderr, done.stderr


def test_what_a_second_network_says_of_state_and_time_is_no_condition():
    pipe = controlled()
    for block in pipe.controlnet.controlnet_down_blocks:        # untrained they say nothing
        torch.nn.init.ones_(block.weight)
    with pytest.raises(SettingsError, match=r"another down_block_additional_residuals/0, .*only state and time may"):
        record_family(pipe, {"image": torch.rand(1, 3, 32, 32)})


def test_pipelines_of_texts_and_classes_take_no_images():
    assert {kind: image_inputs(type(one.build())) for kind, one in pipelines.KINDS.items()
            if kind not in ("sd-v",)} == {kind: [] for kind in pipelines.KINDS if kind != "sd-v"}  # fmt: skip
