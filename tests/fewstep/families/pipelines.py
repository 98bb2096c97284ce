"""Tiny random pipelines of the families that people have, of diffusers' real classes, built without a download."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

LINES = [
    "a red apple", "grinning face with big eyes", "two blue cars on a road", "a small green tree", "person running",
]
LENGTH = 16
_BLOCKS = (8, 16)


@dataclass(frozen=True)
class Kind:
    """How a tiny pipeline of a family is made, and the arguments that its call is recorded and sampled with."""

    make: Callable[[], Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    conditions: str = "prompt"

    def build(self) -> Any:
        """The pipeline, with random weights that are the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = self.make()
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        return pipe

    def save(self, folder: Path) -> Any:
        """The pipeline, saved to a folder."""
        pipe = self.build()
        pipe.save_pretrained(folder)
        return pipe


def clip_tokenizer() -> Any:
    """Byte pairs learnt from LINES, as CLIP has them."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learnt = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator(LINES * 4, trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"]))
    state = json.loads(learnt.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return transformers.CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=LENGTH)


def t5_tokenizer() -> Any:
    """Pieces learnt from LINES, as T5 has them."""
    learnt = Tokenizer(models.Unigram())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator(LINES * 4, trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    vocab = [tuple(piece) for piece in json.loads(learnt.to_str())["model"]["vocab"]]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=LENGTH)


def gemma_tokenizer() -> Any:
    """Characters."""
    known = sorted({letter for line in LINES for letter in line.replace(" ", "▁")})
    vocab = {piece: number for number, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *known])}
    return transformers.GemmaTokenizer(vocab=vocab, merges=[])


def clip(projected: bool = False) -> Any:
    """A text encoder of two layers."""
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=800,
        projection_dim=32, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5(width: int = 32) -> Any:
    """A text encoder of two layers."""
    config = transformers.T5Config(vocab_size=200, d_model=width, d_ff=37, d_kv=8, num_heads=4, num_layers=2)
    return transformers.T5EncoderModel(config)


def vae(**more: Any) -> Any:
    """An image autoencoder that halves the sides."""
    return diffusers.AutoencoderKL(
        block_out_channels=_BLOCKS, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1, **more)


def text_unet(channels: int = 4, **more: Any) -> Any:
    """A UNet2DConditionModel of two resolutions."""
    return diffusers.UNet2DConditionModel(**{
        "block_out_channels": _BLOCKS, "layers_per_block": 1, "sample_size": 16, "in_channels": channels,
        "out_channels": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, "norm_num_groups": 4,
        "attention_head_dim": 4, **more})


def ddim(**more: Any) -> Any:
    """The chain of Stable Diffusion."""
    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, **more)


def sd(**more: Any) -> Any:
    """Stable Diffusion 1.5; 2.1 with v-prediction."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), unet=text_unet(), scheduler=ddim(**more),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def sdxl() -> Any:
    """Two encoders, sizes as a condition."""
    unet = text_unet(
        cross_attention_dim=64, attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=80)
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(), text_encoder_2=clip(True), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=unet, scheduler=scheduler)


def sd3() -> Any:
    """Three encoders, a joint transformer, a flow."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=4)
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, scaling_factor=1.5), text_encoder=clip(True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(True), tokenizer_2=clip_tokenizer(), text_encoder_3=t5(64), tokenizer_3=t5_tokenizer())


def flux() -> Any:
    """Packed tokens, an embedded guidance scale, a shift by size."""
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=scheduler, vae=vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip(), tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer())


def sana() -> Any:
    """A deep-compression autoencoder, linear attention, a language model as encoder."""
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16,
        sample_size=16)
    blocks, scales = ("ResBlock", "EfficientViTBlock"), ((), (5,))
    compressor = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41407)
    encoder = transformers.Gemma2Model(transformers.Gemma2Config(
        head_dim=16, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1,
        num_key_value_heads=2, vocab_size=64, attn_implementation="eager"))
    return diffusers.SanaPipeline(
        transformer=transformer, vae=compressor, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoder, tokenizer=gemma_tokenizer())


def pixart() -> Any:
    """Learned variances, masked padding."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, norm_type="ada_norm_single",
        norm_elementwise_affine=False)
    return diffusers.PixArtSigmaPipeline(
        transformer=transformer, vae=vae(), scheduler=diffusers.DDIMScheduler(), text_encoder=t5(),
        tokenizer=t5_tokenizer())


def dit() -> Any:
    """Classes."""
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, attention_bias=True, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
        norm_elementwise_affine=False)
    return diffusers.DiTPipeline(transformer=transformer, vae=vae(), scheduler=diffusers.DDIMScheduler())


def wan() -> Any:
    """Video, guidance by two calls."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32)
    compressor = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return diffusers.WanPipeline(
        transformer=transformer, vae=compressor, scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer())


def ltx() -> Any:
    """Video as packed tokens."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=1, caption_channels=32)
    scaling = (True, True, False, False)
    compressor = diffusers.AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=scaling, decoder_spatio_temporal_scaling=scaling, decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1,
        patch_size_t=1, encoder_causal=True, decoder_causal=False)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return diffusers.LTXPipeline(
        transformer=transformer, vae=compressor, scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer())


def cogvideox() -> Any:
    """Video with frames first, zero terminal SNR."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32,
        num_layers=1, sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=LENGTH)
    compressor = diffusers.AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8), latent_channels=4,
        layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4)
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", snr_shift_scale=1.0)
    return diffusers.CogVideoXPipeline(
        transformer=transformer, vae=compressor, scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer())


def stable_audio() -> Any:
    """Sound, durations as a condition, EDM."""
    transformer = diffusers.StableAudioDiTModel(
        sample_size=4, in_channels=3, num_layers=2, attention_head_dim=4, num_attention_heads=2,
        num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4)
    compressor = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4)
    durations = diffusers.StableAudioProjectionModel(
        text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32)
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        prediction_type="v_prediction", sigma_data=1.0, sigma_min=0.3, sigma_max=500.0, sigma_schedule="exponential")
    return diffusers.StableAudioPipeline(
        transformer=transformer, vae=compressor, scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer(),
        projection_model=durations)


def pixel_unet(**more: Any) -> Any:
    """A UNet2DModel of two resolutions."""
    return diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=_BLOCKS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4, **more)


def ddpm() -> Any:
    """Pixels without conditions, as the oldest pipelines make them."""
    return diffusers.DDPMPipeline(unet=pixel_unet(), scheduler=diffusers.DDPMScheduler())


def labelled() -> Any:
    """Pixels of three classes."""
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    return diffusers.DDIMPipeline(unet=pixel_unet(num_class_embeds=3), scheduler=scheduler)


_SHORT = {"max_sequence_length": LENGTH}
_IMAGE = {"height": 32, "width": 32, **_SHORT}
KINDS: dict[str, Kind] = {
    "sd": Kind(sd),
    "sd-v": Kind(lambda: sd(prediction_type="v_prediction")),
    "sdxl": Kind(sdxl),
    "sd3": Kind(sd3, _SHORT),
    "flux": Kind(flux, _IMAGE),
    "sana": Kind(sana, {**_IMAGE, "complex_human_instruction": None, "use_resolution_binning": False}),
    "pixart": Kind(pixart, {"height": 16, "width": 16, "use_resolution_binning": False, **_SHORT}),
    "dit": Kind(dit, conditions="class_labels"),
    "wan": Kind(wan, {"height": 16, "width": 16, "num_frames": 9, **_SHORT}),
    "ltx": Kind(ltx, {"height": 32, "width": 32, "num_frames": 9, **_SHORT}),
    "cogvideox": Kind(cogvideox, {"height": 16, "width": 16, "num_frames": 9, **_SHORT}),
    "stable_audio": Kind(stable_audio),
}
PIXELS: dict[str, Kind] = {
    "ddpm": Kind(ddpm, conditions="batch_size"),
    "unet": Kind(labelled, conditions="class_labels"),
}
"""Of a UNet2DModel, whose states are the samples: nothing of their pipelines is recorded."""
