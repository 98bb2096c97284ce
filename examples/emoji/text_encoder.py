"""The text encoder of the emoji teacher: all-MiniLM-L6-v2 (22.7 M weights), one token for each piece of a caption."""

from __future__ import annotations

from pathlib import Path

import transformers

LENGTH = 16
"""Tokens of a caption, padding included; the longest has all of them."""


def load_encoder(folder: Path) -> tuple[transformers.BertTokenizer, transformers.BertModel]:
    """The tokenizer, which pads to LENGTH, and the encoder, frozen, from the package's folder of safetensors.

    The encoder's configuration tells pipelines to hand it the mask of padding, as it was trained with.
    """
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=LENGTH)
    encoder = transformers.BertModel.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    encoder.config.use_attention_mask = True
    return tokenizer, encoder.eval().requires_grad_(False)
