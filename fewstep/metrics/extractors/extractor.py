"""Feature extractors by name and digest, so that a distance always says in which features it was measured."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.data.medium import IMAGES, Medium
from fewstep.data.prompts import PromptTable
from fewstep.networks.feature_classifier import Classifier
from fewstep.networks.feature_files import load_features
from fewstep.networks.text_tower import TextTower


@dataclass(frozen=True)
class Extractor:
    """Maps (N, C, H, W) images, or samples of another medium, in [-1, 1] to (N, dimensions) float64 features.

    Attributes:
        name: such as `classifier-16`, `text-16` or `pca-16`.
        digest: SHA-256 of the weights file.
        num_classes: classes it can tell apart; 0 if it knows none.
        resized: what it does to the size of images first, and
        antialiased: whether that smooths before it shrinks; both for the protocol.
        texts: the texts of (P,) prompts as embeddings (P, k) of length 1, where it compares images with texts.
        medium: what it is given, and seen: how it comes to see that, where it is made for another medium.
    """

    model: nn.Module
    name: str
    digest: str
    dimensions: int
    num_classes: int = 0
    resized: str = "no"
    antialiased: bool = False
    texts: Callable[[PromptTable], np.ndarray] | None = None
    medium: Medium = IMAGES
    seen: str = ""

    @property
    def place(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.model.state_dict().values())).device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """(N, dimensions) features; the caller fixes the batch size, on which the last bits depend."""
        return self.model.features(images.to(self.place)).double().cpu().numpy()

    @torch.no_grad()
    def embed(self, images: Tensor) -> np.ndarray:
        """(N, k) embeddings of images, of length 1, beside those of texts. Only of a `TextTower`."""
        return self.model.embed(images.to(self.place)).double().cpu().numpy()

    @torch.no_grad()
    def classify(self, images: Tensor) -> np.ndarray:
        """(N,) int64: the most probable class of each image. Only with `num_classes` > 0."""
        return self.model(images.to(self.place)).argmax(1).cpu().numpy()


def load_extractor(folder: Path, device: torch.device | str = "cpu") -> Extractor:
    """The extractor that the classifier stage published in `folder`, on the device.

    Raises:
        SettingsError: there is none.
        DataDiffers: its files do not fit each other.
    """
    model = load_features(folder).to(device)
    digest = hashlib.sha256((Path(folder) / "features.safetensors").read_bytes()).hexdigest()
    dimensions = len(model.components)
    if isinstance(model, TextTower):
        return Extractor(model, f"text-{dimensions}", digest, dimensions, texts=model.texts)
    if isinstance(model, Classifier):
        return Extractor(model, f"classifier-{dimensions}", digest, dimensions, model.num_classes)
    return Extractor(model, f"pca-{dimensions}", digest, dimensions)
