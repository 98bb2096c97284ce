"""DINOv2 and CLIP image encoders from a local folder in the transformers format (config.json, model.safetensors)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.data.prompts import PromptTable
from fewstep.metrics.extractors.text_encoders import ProjectedTexts


class Tower(nn.Module):
    """(N, C, H, W) images in [-1, 1], C 1 or 3 → (N, dimensions): resized to size × size (bicubic, smoothing before it
    shrinks), clipped to [0, 1] and normalised by the encoder's mean and deviation."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __init__(self, size: int, dimensions: int):
        super().__init__()
        self.size, self.dimensions = size, dimensions

    def encode(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def texts(self, prompts: PromptTable) -> np.ndarray:
        """(P, dimensions) of length 1, of encoders that compare images with texts."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        x = functional.interpolate(images.expand(-1, 3, -1, -1), size=(self.size, self.size), mode="bicubic",
                                   align_corners=False, antialias=True)  # fmt: skip
        x = ((x + 1) / 2).clamp(0, 1)
        mean, deviation = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None]
                           for v in (self.mean, self.deviation))  # fmt: skip
        return self.encode((x - mean) / deviation)


class Dinov2(Tower):
    """DINOv2 (Oquab et al. 2023, arXiv 2304.07193): the class token after the last norm, 224 × 224 as the FD-DINOv2
    of the literature has it."""

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, config: dict, tokenizer: Path | None = None):
        from transformers import Dinov2Config, Dinov2Model  # loads transformers

        parsed = Dinov2Config.from_dict(config)
        super().__init__(224, parsed.hidden_size)
        self.network = Dinov2Model(parsed)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).last_hidden_state[:, 0]

    @staticmethod
    def names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the encoder alone has them; checkpoints of a classifier put `dinov2.` before."""
        return {f"network.{name.removeprefix('dinov2.')}": value for name, value in weights.items()
                if not name.startswith("classifier.")}  # fmt: skip


class Clip(Tower):
    """CLIP's image tower (Radford et al. 2021, arXiv 2103.00020): the projected embedding, of length 1.

    Args:
        config: of the checkpoint.
        tokenizer: file of its tokenizer; the text tower is kept where it is given.
    """

    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, config: dict, tokenizer: Path | None = None):
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # loads transformers

        own = dict(config.get("vision_config") or config)
        if "projection_dim" in config:
            own["projection_dim"] = config["projection_dim"]
        parsed = CLIPVisionConfig.from_dict(own)
        super().__init__(parsed.image_size, parsed.projection_dim)
        self.network = CLIPVisionModelWithProjection(parsed)
        self.text = None if tokenizer is None else _clip_texts(config, tokenizer)

    def encode(self, pixels: Tensor) -> Tensor:
        return functional.normalize(self.network(pixels).image_embeds, dim=1)

    def texts(self, prompts: PromptTable) -> np.ndarray:
        """(P, dimensions) projected embeddings of the prompts' texts, of length 1."""
        return self.text.embed(prompts.texts)

    def names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The image tower's part of a checkpoint that may hold the text tower too, and that one's where it is kept."""
        towers = {("vision_model.", "visual_projection."): "network."}
        if self.text is not None:
            towers |= {("text_model.", "text_projection."): "text.network."}
        return {f"{place}{name}": value for parts, place in towers.items() for name, value in weights.items()
                if name.startswith(parts) and not name.endswith("position_ids")}


def _clip_texts(config: dict, tokenizer: Path) -> ProjectedTexts:
    """CLIP's text tower, of a checkpoint's configuration."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection  # loads transformers

    own = dict(config["text_config"])
    if "projection_dim" in config:
        own["projection_dim"] = config["projection_dim"]
    parsed = CLIPTextConfig.from_dict(own)
    return ProjectedTexts(CLIPTextModelWithProjection(parsed), tokenizer, parsed.max_position_embeddings)
