"""Tiny random pipelines whose conditions are images too, and some that are refused; see pipelines.py."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from PIL import Image

from fewstep.diffusion.randomness import generator
from tests.fewstep.families import pipelines
from tests.fewstep.families.pipelines import LENGTH, Kind

_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def texts(unet: Any, **more: Any) -> dict[str, Any]:
    """The parts of a Stable Diffusion around a UNet."""
    return {"vae": pipelines.vae(), "text_encoder": pipelines.clip(), "tokenizer": pipelines.clip_tokenizer(),
            "unet": unet, "scheduler": pipelines.ddim(steps_offset=1, **more)}  # fmt: skip


def inpainting() -> Any:
    """Mask and masked image as five further channels."""
    return diffusers.StableDiffusionInpaintPipeline(**texts(pipelines.text_unet(9)), **_UNCHECKED)


def editing() -> Any:
    """The image as four further channels; its guidance has three branches."""
    return diffusers.StableDiffusionInstructPix2PixPipeline(**texts(pipelines.text_unet(8)), **_UNCHECKED)


def upscaler() -> Any:
    """The small image as three further channels, its noise level as a class."""
    unet = pipelines.text_unet(7, num_class_embeds=1000)
    return diffusers.StableDiffusionUpscalePipeline(
        **texts(unet, prediction_type="v_prediction"), low_res_scheduler=diffusers.DDPMScheduler(
            beta_schedule="scaled_linear"))


def first_frame() -> Any:
    """The first frame behind the channels of a state whose frames come first."""
    parts = dict(pipelines.cogvideox().components)
    known = parts["transformer"].config
    parts["transformer"] = diffusers.CogVideoXTransformer3DModel(**{
        **{name: value for name, value in known.items() if not name.startswith("_")}, "in_channels": 8})
    return diffusers.CogVideoXImageToVideoPipeline(**parts)


def image_to_video() -> Any:
    """The first frame as twenty further channels."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=32, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32)
    parts = {name: part for name, part in pipelines.wan().components.items() if name != "transformer_2"}
    return diffusers.WanImageToVideoPipeline(
        **{**parts, "transformer": transformer}, image_encoder=None, image_processor=None)


def first_tokens() -> Any:
    """The first frame in the place of a video's first tokens, at time 0; the scheduler steps the other frames."""
    return diffusers.LTXImageToVideoPipeline(**pipelines.ltx().components)


def controlled() -> Any:
    """A network beside the denoiser, which sees state and time too."""
    unet = pipelines.text_unet()
    control = _awake(diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16)))
    return diffusers.StableDiffusionControlNetPipeline(**texts(unet), controlnet=control, **_UNCHECKED)


def controlled_sizes() -> Any:
    """A network beside a UNet of two encoders and of sizes, which it is told too."""
    parts = dict(pipelines.sdxl().components)
    control = _awake(diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16)))
    known = inspect.signature(diffusers.StableDiffusionXLControlNetPipeline.__init__).parameters
    return diffusers.StableDiffusionXLControlNetPipeline(
        **{name: part for name, part in parts.items() if name in known}, controlnet=control)


def controlled_flow() -> Any:
    """A network beside a joint transformer, whose image is encoded."""
    parts = dict(pipelines.sd3().components)
    last = parts["vae"].quant_conv      # it draws from the autoencoder's distribution without a generator
    with torch.no_grad():
        last.weight[last.out_channels // 2 :] = 0
        last.bias[last.out_channels // 2 :] = -30
    control = diffusers.SD3ControlNetModel(**_taken(diffusers.SD3ControlNetModel, parts["transformer"]))
    return diffusers.StableDiffusion3ControlNetPipeline(**{**parts, "controlnet": _awake(control)})


def controlled_tokens() -> Any:
    """A network beside a transformer of packed tokens."""
    parts = dict(pipelines.flux().components)
    control = diffusers.FluxControlNetModel(**_taken(diffusers.FluxControlNetModel, parts["transformer"]))
    return diffusers.FluxControlNetPipeline(**{**parts, "controlnet": _awake(control)})


def _taken(kind: Any, network: Any) -> dict[str, Any]:
    """What of a network's configuration the constructor of `kind` takes."""
    known = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in network.config.items() if name in known}


def _awake(control: Any) -> Any:
    """A control network whose outputs are not 0, as they are before it is trained."""
    with torch.no_grad():
        for number, parameter in enumerate(control.parameters()):
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator(number, "control"))
    return control


def noised() -> Any:
    """Sampling begins at the image itself, noised."""
    return diffusers.StableDiffusionImg2ImgPipeline(**texts(pipelines.text_unet()), **_UNCHECKED)


def blended() -> Any:
    """A network of texts alone: the image is put around what it makes, after every step."""
    return diffusers.StableDiffusionInpaintPipeline(**texts(pipelines.text_unet()), **_UNCHECKED)


_VIDEO = {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": LENGTH}
SEEING: dict[str, Kind] = {
    "inpainting": Kind(inpainting),
    "editing": Kind(editing),
    "upscaler": Kind(upscaler),
    "first_frame": Kind(first_frame, _VIDEO),
    "image_to_video": Kind(image_to_video, _VIDEO),
    "first_tokens": Kind(first_tokens, pipelines.KINDS["ltx"].arguments),
    "controlled": Kind(controlled),
    "controlled_sizes": Kind(controlled_sizes, pipelines.KINDS["sdxl"].arguments),
    "controlled_flow": Kind(controlled_flow, pipelines.KINDS["sd3"].arguments),
    "controlled_tokens": Kind(controlled_tokens, pipelines.KINDS["flux"].arguments),
}


def picture(size: tuple[int, int], seed: int, mode: str = "RGB") -> Image.Image:
    """An image of noise; of mode L a mask."""
    pixels = torch.randint(0, 256, (*size, 3), generator=generator(seed, "picture"), dtype=torch.uint8)
    if mode == "L":
        pixels[..., 0] = (torch.arange(size[1]) > size[1] // (2 + seed)).byte() * 255
        return Image.fromarray(pixels[..., 0].contiguous().numpy())
    return Image.fromarray(pixels.numpy())
