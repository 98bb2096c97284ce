"""An image tower fitted to frozen sentence embeddings: what compares images with texts where no weights are given.

As CLIP (Radford et al. 2021, arXiv 2103.00020) with a text tower that is not trained but for one linear map.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from fewstep.data.prompts import PromptTable
from fewstep.diffusion.randomness import generator
from fewstep.networks.feature_classifier import ConvolutionalFeatures, fit_network
from fewstep.util.errors import SettingsError

JOINT = 64
"""Most dimensions that images and texts are compared in."""
TEMPERATURE = 0.07


class TextTower(ConvolutionalFeatures):
    """Images (N, C, H, W) in [-1, 1] and embeddings of texts (P, D) → vectors of length 1 in common dimensions.

    Args:
        text_dimensions: D.
        joint: common dimensions.
        shape, features, width: see `ConvolutionalFeatures`.
    """

    def __init__(self, shape: tuple[int, int, int], text_dimensions: int, joint: int, features: int = 16,
                 width: int = 32):  # fmt: skip
        super().__init__(shape, joint, features, width)
        self.text_dimensions, self.joint = text_dimensions, joint
        self.text_head = nn.Parameter(torch.eye(joint))
        self.register_buffer("text_mean", torch.zeros(text_dimensions))
        self.register_buffer("text_components", torch.zeros(joint, text_dimensions))

    def embed(self, images: Tensor) -> Tensor:
        """(N, joint)."""
        return functional.normalize(self(images), dim=1)

    def embed_texts(self, embedding: Tensor) -> Tensor:
        """(P, joint) of (P, D)."""
        return functional.normalize(self._white(embedding) @ self.text_head, dim=1)

    @torch.no_grad()
    def texts(self, prompts: PromptTable) -> np.ndarray:
        """(P, joint) of the prompts' embeddings.

        Raises SettingsError for prompts without embeddings of the encoder that this tower was fitted to.
        """
        if prompts.embedding is None or prompts.embedding.shape[1] != self.text_dimensions:
            found = None if prompts.embedding is None else prompts.embedding.shape[1]
            raise SettingsError(f"the features were fitted to embeddings of {self.text_dimensions} numbers, the "
                                f"prompts have {found or 'none'}", hint="run the classifier stage again")  # fmt: skip
        return self.embed_texts(torch.from_numpy(prompts.embedding).to(self.mean.device)).double().cpu().numpy()

    def _white(self, embedding: Tensor) -> Tensor:
        return (embedding - self.text_mean) @ self.text_components.T


def fit_text_tower(images: Tensor, rows: Tensor, embedding: Tensor, *, seed: int, steps: int = 600, batch: int = 64,
                   learning_rate: float = 3e-3, features: int = 16, width: int = 32,
                   device: torch.device | str = "cpu",
                   on_step: Callable[[int, int], None] | None = None) -> TextTower:  # fmt: skip
    """Trains a `TextTower` by the contrast of every image with the texts of the others in its batch, both ways.

    Texts are given by their whitened principal components, so that what all of them have in common does not count.

    Args:
        images: (N, C, H, W) in [-1, 1].
        rows: (N,) int64 in [0, P): which text each image shows.
        embedding: (P, D) of the texts, not trained.
        device: where it is trained, and lies then; all that is given is taken from the CPU.
        on_step: called with (steps done, steps in all) after every 20th step.

    Raises:
        SettingsError: fewer than 3 texts with different embeddings.
        NonFinite: the loss stopped being a number.
    """
    shown = embedding[rows.unique()].double()
    different = len(shown.unique(dim=0))
    joint = min(JOINT, different - 1, embedding.shape[1])
    if joint < 2:
        raise SettingsError("texts and images are compared by at least 3 texts with different embeddings, the fit "
                            f"split has {different}", hint="more captions, or a larger data.split.fit")  # fmt: skip
    model = TextTower(tuple(images.shape[1:]), embedding.shape[1], joint, features, width)
    model.initialise(generator(seed, "classifier-init"))
    fitted = PCA(joint, svd_solver="full").fit(shown.numpy())
    scale = np.sqrt(np.maximum(fitted.explained_variance_, 1e-6 * fitted.explained_variance_[0]))
    model.text_mean.copy_(torch.from_numpy(fitted.mean_))
    model.text_components.copy_(torch.from_numpy(fitted.components_ / scale[:, None]))
    white = model._white(embedding).to(device)

    def loss_of(x: Tensor, numbers: Tensor) -> Tensor:
        own = rows[numbers].to(device)
        texts = functional.normalize(white[own] @ model.text_head, dim=1)
        logits = model.embed(x) @ texts.T / TEMPERATURE
        same = (own[:, None] == own[None]) & ~torch.eye(len(own), dtype=torch.bool, device=device)
        logits = logits.masked_fill(same, -torch.inf)
        target = torch.arange(len(own), device=device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    fit_network(model.to(device), images, loss_of, seed=seed, steps=steps, batch=batch, learning_rate=learning_rate,
                on_step=on_step)  # fmt: skip
    return model
