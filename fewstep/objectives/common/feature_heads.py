"""Small networks on the inner features of another."""

import torch
from torch import Tensor, nn

from fewstep.diffusion.randomness import generator


class FeatureHeads(nn.Module):
    """Logits from features, by one head or a pool of them.

    Each head: every (N, C, H, W) map or (N, C) vector -> linear, SiLU, linear, averaged over places; the sum over the
    features. With labels a projection joins in, <embedding of the label, hidden units> (Miyato and Koyama, 1802.05637),
    or with summaries of conditions a linear map of those in the embedding's place.

    Args:
        channels: of the features. width: hidden units of a head. heads: how many.
        labels: to tell apart, or entries of a summary; 0 for none.
        seed: of the weights, uniform in +-1/sqrt(fan-in); biases and embeddings start at 0.
    """

    def __init__(self, channels: list[int], width: int, seed: int, heads: int = 1, labels: int = 0):
        super().__init__()
        self.heads, self.width = heads, width
        self.inner = nn.ParameterList(torch.zeros(heads, width, c) for c in channels)
        self.inner_bias = nn.ParameterList(torch.zeros(heads, width) for _ in channels)
        self.outer = nn.ParameterList(torch.zeros(heads, width) for _ in channels)
        self.outer_bias = nn.Parameter(torch.zeros(heads))
        self.embedding = nn.ParameterList(torch.zeros(labels, heads, width) for _ in channels if labels)
        self.refresh(range(heads), generator(seed, "heads"))

    def forward(self, features: list[Tensor], labels: Tensor | None = None, asked: Tensor | None = None) -> Tensor:
        """Features, one per channel count given, and labels (N,) or summaries (N, labels) -> logits (N, heads), of the
        heads `asked` (A,)."""
        asked = torch.arange(self.heads, device=features[0].device) if asked is None else asked
        logits = self.outer_bias[asked]
        for k, feature in enumerate(features):
            places = feature.flatten(2).transpose(1, 2) if feature.ndim > 2 else feature[:, None]
            inner, bias = self.inner[k][asked].flatten(0, 1), self.inner_bias[k][asked].flatten()
            hidden = nn.functional.silu(nn.functional.linear(places.to(inner.dtype), inner, bias))
            hidden = hidden.unflatten(2, (-1, self.width))
            outer = self.outer[k][asked]
            if len(self.embedding) and labels is not None:
                outer = outer + self._embedded(k, labels)[:, asked]
            logits = logits + (hidden.mean(1) * outer).sum(-1)
        return logits

    def _embedded(self, k: int, labels: Tensor) -> Tensor:
        """(N, heads, width)."""
        table = self.embedding[k]
        if not labels.is_floating_point():
            return table[labels]
        return torch.tensordot(labels.to(table.dtype), table, 1) / len(table) ** 0.5

    @torch.no_grad()
    def refresh(self, which: list[int] | range, source: torch.Generator) -> None:
        """Draws the weights of the heads `which` anew."""
        for head in which:
            for inner, bias, outer in zip(self.inner, self.inner_bias, self.outer, strict=True):
                for weight in (inner, outer):
                    drawn = 2 * torch.rand(weight[head].shape, generator=source) - 1
                    weight[head] = drawn * weight.shape[-1] ** -0.5
                bias[head] = 0
            self.outer_bias[head] = 0
            for embedding in self.embedding:
                embedding[:, head] = 0
