"""Small networks on the inner features of another."""

import torch
from torch import Tensor, nn

from fewstep.randomness import derive


def initialise(module: nn.Module, seed: int) -> None:
    """Draws the weights of every linear and convolution layer from `seed`: uniform in +-1/sqrt(fan-in), biases 0.

    The global generator stays untouched (layers must have been built with torch.nn.utils.skip_init or on "meta").
    """
    source = torch.Generator().manual_seed(derive(seed, "initial-weights") % 2**63)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = (layer.weight[0].numel()) ** -0.5
            drawn = torch.rand(layer.weight.shape, generator=source)
            with torch.no_grad():
                layer.weight.copy_((2 * drawn - 1) * bound)
                if layer.bias is not None:
                    layer.bias.zero_()


class FeatureHead(nn.Module):
    """Logits from features: each (N, C, H, W) map or (N, C) vector -> linear, SiLU -> sum of linear outputs: (N,)."""

    def __init__(self, channels: list[int], width: int, seed: int):
        super().__init__()
        self.inner = nn.ModuleList(nn.utils.skip_init(nn.Linear, c, width) for c in channels)
        self.outer = nn.ModuleList(nn.utils.skip_init(nn.Linear, width, 1) for _ in channels)
        initialise(self, seed)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, one per channel count given -> (N,) logits; maps are judged at each place and averaged."""
        logits = []
        for feature, inner, outer in zip(features, self.inner, self.outer, strict=True):
            places = feature.flatten(2).transpose(1, 2) if feature.ndim > 2 else feature[:, None]
            logits.append(outer(nn.functional.silu(inner(places.float()))).mean((1, 2)))
        return torch.stack(logits).sum(0)
