"""Texts as a joint encoder's tower embeds them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_TEXTS = 64     # at a time


class ProjectedTexts(nn.Module):
    """A text tower with its tokenizer: the projected embedding of a text, of length 1.

    Args:
        network: of transformers, whose output has `text_embeds`.
        tokenizer: file of its tokenizer.
        longest: tokens that it reads.
    """

    def __init__(self, network: nn.Module, tokenizer: Path, longest: int):
        from tokenizers import Tokenizer  # as transformers, which loads it

        super().__init__()
        self.network = network
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(longest)
        self.tokenizer.no_padding()

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(P, dimensions); what is longer than the tower reads is cut off."""
        place, found = next(self.network.parameters()).device, []
        for start in range(0, len(texts), _TEXTS):
            tokens = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts[start : start + _TEXTS]))]
            longest = max(map(len, tokens))
            ids = torch.tensor([some + [some[-1]] * (longest - len(some)) for some in tokens], device=place)
            mask = torch.tensor([[1] * len(some) + [0] * (longest - len(some)) for some in tokens], device=place)
            found.append(functional.normalize(self.network(ids, attention_mask=mask).text_embeds, dim=1).cpu())
        return torch.cat(found).double().numpy()
