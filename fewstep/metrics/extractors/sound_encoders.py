"""CLAP's sound encoder from a local folder in the transformers format (config.json, preprocessor_config.json,
model.safetensors)."""

from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor, nn
from torch.nn import functional

from fewstep.data.prompts import PromptTable
from fewstep.metrics.extractors.text_encoders import ProjectedTexts
from fewstep.util.errors import SettingsError


class Clap(nn.Module):
    """CLAP's sound tower (Wu et al. 2022, arXiv 2211.06687): the projected embedding, of length 1, of the mean of the
    channels, of which the tower's first seconds are heard.

    Args:
        config: of the checkpoint, which must not fuse crops of longer sounds: those are drawn at random.
        preprocessor: of its feature extractor.
        tokenizer: file of its tokenizer; the text tower is kept where it is given.
    """

    def __init__(self, config: dict, preprocessor: dict, tokenizer: Path | None = None):
        from transformers import (  # loads transformers
            ClapAudioConfig,
            ClapAudioModelWithProjection,
            ClapFeatureExtractor,
            ClapTextConfig,
            ClapTextModelWithProjection,
        )

        super().__init__()
        parsed = ClapAudioConfig.from_dict(_own(config, "audio_config"))
        if parsed.enable_fusion:
            raise SettingsError("evaluate.extractors.clap: this CLAP fuses random crops of longer sounds, so the same "
                                "sound has other features each time", hint="take an unfused one")  # fmt: skip
        self.network, self.dimensions = ClapAudioModelWithProjection(parsed), parsed.projection_dim
        self.heard = ClapFeatureExtractor(**{**preprocessor, "truncation": "rand_trunc"})
        self.rate = float(self.heard.sampling_rate)
        self.text = None
        if tokenizer is not None:
            text = ClapTextConfig.from_dict(_own(config, "text_config"))
            longest = text.max_position_embeddings - text.pad_token_id - 1      # RoBERTa counts from behind its padding
            self.text = ProjectedTexts(ClapTextModelWithProjection(text), tokenizer, longest)

    @property
    def seconds(self) -> float:
        """How much of a sound is heard."""
        return self.heard.nb_max_samples / self.rate

    def features(self, sound: Tensor) -> Tensor:
        """(N, dimensions) of sound (N, C, L) at `rate`."""
        mono = sound.mean(1)[:, : int(self.heard.nb_max_samples)].cpu().double().numpy()
        made = self.heard(list(mono), sampling_rate=int(self.rate), return_tensors="pt")
        place = next(self.network.parameters()).device
        found = self.network(made.input_features.float().to(place), is_longer=made.is_longer.to(place))
        return functional.normalize(found.audio_embeds, dim=1)

    def texts(self, prompts: PromptTable) -> np.ndarray:
        """(P, dimensions) projected embeddings of the prompts' texts, of length 1."""
        return self.text.embed(prompts.texts)

    def names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sound tower's part of a checkpoint, and the text tower's where that is kept."""
        towers = {("audio_model.", "audio_projection."): "network."}
        if self.text is not None:
            towers |= {("text_model.", "text_projection."): "text.network."}
        known = self.state_dict()
        return {f"{place}{name}": value for parts, place in towers.items() for name, value in weights.items()
                if name.startswith(parts) and (f"{place}{name}" in known or not name.endswith("_ids"))}  # fmt: skip


class AtRate(nn.Module):
    """A model of sound at its own rate, given sound (N, C, L) at another."""

    def __init__(self, model: nn.Module, rate: float):
        super().__init__()
        self.model, self.given = model, round(rate)

    def features(self, sound: Tensor) -> Tensor:
        """(N, d)."""
        made = resample_poly(sound.cpu().double().numpy(), round(self.model.rate), self.given, axis=-1)
        return self.model.features(torch.from_numpy(made).float())


def _own(config: dict, part: str) -> dict:
    """A tower's part of a checkpoint's configuration."""
    own = dict(config.get(part) or config)
    if "projection_dim" in config:
        own["projection_dim"] = config["projection_dim"]
    return own
