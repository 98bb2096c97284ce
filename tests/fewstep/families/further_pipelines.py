"""Tiny random pipelines of further families, each of which calls its denoiser in a form that those of pipelines.py have
not; see there."""

from __future__ import annotations

import json
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.fewstep.families import pipelines
from tests.fewstep.families.pipelines import LENGTH, LINES, Kind

_CHAT = ("{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>"
         "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}")  # fmt: skip
_VOCABULARY = 800


def qwen_tokenizer() -> Any:
    """Byte pairs learnt from LINES, as Qwen has them."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator(LINES * 4, trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    state = json.loads(learnt.to_str())["model"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]], unk_token="<|endoftext|>",
        pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = _CHAT
    return tokenizer


def _qwen3() -> Any:
    return transformers.Qwen3Model(transformers.Qwen3Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, vocab_size=_VOCABULARY, max_position_embeddings=512))


def _qwen_vl() -> Any:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": _VOCABULARY, "rope_theta": 1e6,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, hidden_size=16, vocab_size=_VOCABULARY, vision_end_token_id=3,
        vision_start_token_id=4, vision_token_id=5))


def _gemma() -> Any:
    return transformers.Gemma2Model(transformers.Gemma2Config(
        head_dim=16, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2,
        num_key_value_heads=2, vocab_size=64, attn_implementation="eager"))


def _wide_vae(**more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=16, norm_num_groups=4, layers_per_block=1, **more)


def lumina2() -> Any:
    """Time runs from noise at 0 to data at 1, and the network's output is negated."""
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), cap_feat_dim=16)
    return diffusers.Lumina2Pipeline(
        transformer=transformer, vae=pipelines.vae(shift_factor=0.06, scaling_factor=1.5),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0), text_encoder=_gemma(),
        tokenizer=pipelines.gemma_tokenizer())


def z_image() -> Any:
    """As Lumina 2, with a list of states and a list of texts of their own lengths; a guidance scale of 0 is none."""
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32])
    with torch.no_grad():
        transformer.x_pad_token.fill_(1)    # left as memory was by its constructor
        transformer.cap_pad_token.fill_(1)
    return diffusers.ZImagePipeline(
        transformer=transformer, vae=_wide_vae(shift_factor=0.1, scaling_factor=0.36),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=_qwen3(),
        tokenizer=qwen_tokenizer())


def qwen_image() -> Any:
    """Texts padded to the longest of a call, with a mask that is left out where all are as long; an image is a video of
    one frame to its autoencoder."""
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4))
    compressor = diffusers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9)
    return diffusers.QwenImagePipeline(
        transformer=transformer, vae=compressor, scheduler=scheduler, text_encoder=_qwen_vl(),
        tokenizer=qwen_tokenizer())


def kandinsky3() -> Any:
    """Texts as long as they are, with a mask; an autoencoder of another name, which does not quantise."""
    unet = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=32)
    compressor = diffusers.VQModel(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), layers_per_block=1, latent_channels=4,
        norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12, vq_embed_dim=4)
    return diffusers.Kandinsky3Pipeline(
        unet=unet, movq=compressor, scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        text_encoder=pipelines.t5(), tokenizer=pipelines.t5_tokenizer())


def animated() -> Any:
    """A text's row for every frame; an autoencoder of images for the frames of a video."""
    parts = pipelines.sd().components
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=4)
    return diffusers.AnimateDiffPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}, motion_adapter=adapter,
        scheduler=pipelines.ddim())


def guided_by_embedding() -> Any:
    """The guidance scale as an embedding of several numbers."""
    parts = dict(pipelines.sd().components)
    return diffusers.StableDiffusionPipeline(
        **parts | {"unet": pipelines.text_unet(time_cond_proj_dim=16)}, requires_safety_checker=False)


def conditioned_tokens() -> Any:
    """Steps of the pipeline's own, which it tells its scheduler."""
    parts = dict(pipelines.ltx().components)
    return diffusers.LTXConditionPipeline(**parts | {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler()})


def adapted() -> Any:
    """A list of residuals, of which the network takes what it has used."""
    parts = {name: part for name, part in pipelines.sd().components.items() if name != "image_encoder"}
    unet = pipelines.text_unet(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                               up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))  # fmt: skip
    adapter = diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return diffusers.StableDiffusionAdapterPipeline(
        **parts | {"unet": unet}, adapter=adapter, requires_safety_checker=False)


def without_an_encoder() -> Any:
    """The largest of three encoders left out, which the folder says and the constructor asks for."""
    pipe = pipelines.sd3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    return pipe


def perturbed() -> Any:
    """A second guidance, with a branch of its own."""
    parts = dict(pipelines.sd().components)
    return diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["mid"])


def unmasked_lengths() -> Any:
    """Texts padded to a multiple of 16 tokens, all of which the network attends to."""
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4)
    return diffusers.CogView4Pipeline(
        transformer=transformer, vae=pipelines.vae(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="linear"), text_encoder=_qwen3(), tokenizer=qwen_tokenizer())


def refined() -> Any:
    """Sampling begins at the image, in the last third of the steps."""
    return diffusers.StableDiffusionXLImg2ImgPipeline(**pipelines.sdxl().components)


def consistent() -> Any:
    """A scheduler of its own, which is told more than others take."""
    parts = {name: part for name, part in pipelines.sd().components.items() if name != "image_encoder"}
    return diffusers.LatentConsistencyModelPipeline(
        **parts | {"unet": pipelines.text_unet(time_cond_proj_dim=16), "scheduler": diffusers.LCMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)}, requires_safety_checker=False)


def by_turns() -> Any:
    """Two denoisers, one for much noise and one for little."""
    parts = dict(pipelines.wan().components)
    config = {name: value for name, value in parts["transformer"].config.items() if not name.startswith("_")}
    parts["transformer_2"] = diffusers.WanTransformer3DModel(**config)
    return diffusers.WanPipeline(**parts, boundary_ratio=0.875)


_SIDES = {"height": 32, "width": 32}
FURTHER: dict[str, Kind] = {
    "lumina2": Kind(lumina2, {"height": 128, "width": 128, "max_sequence_length": 32}),
    "z_image": Kind(z_image, {**_SIDES, "max_sequence_length": 96}),
    "qwen_image": Kind(qwen_image, {**_SIDES, "max_sequence_length": 256}),
    "kandinsky3": Kind(kandinsky3, _SIDES),
    "animated": Kind(animated, {**_SIDES, "num_frames": 3}),
    "guided_by_embedding": Kind(guided_by_embedding),
    "adapted": Kind(adapted, _SIDES),
    "without_an_encoder": Kind(without_an_encoder, pipelines.KINDS["sd3"].arguments),
}
REFUSED: dict[str, tuple[Kind, str]] = {
    "perturbed": (Kind(perturbed), "without guidance its denoiser is given 2 states for every sample"),
    "unmasked_lengths": (Kind(unmasked_lengths, {**_SIDES, "max_sequence_length": 64}),
                         "'encoder_hidden_states' is as long as the longest text of a call"),
    "conditioned_tokens": (Kind(conditioned_tokens, pipelines.KINDS["ltx"].arguments),
                           "it tells its scheduler timesteps of its own"),
    "consistent": (Kind(consistent), "it tells its scheduler original_inference_steps"),
    "refined": (Kind(refined), "sampling begins at a state that image changes, not at noise"),
    "by_turns": (Kind(by_turns, {"max_sequence_length": LENGTH}),
                 "transformer is one of several denoisers, beside transformer_2"),
}
