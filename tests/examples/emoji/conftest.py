from pathlib import Path

import pytest
import torch
import transformers

from examples.emoji.compositions import all_compositions
from examples.emoji.requirements import INSTALL_FONT, find_font


@pytest.fixture(scope="session")
def font() -> Path:
    """The font; `make test` installs it where it may."""
    found = find_font()
    if found is None:
        pytest.skip(f"no Noto colour emoji font here ({INSTALL_FONT}; `make test` does where it may)")
    return found


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A text encoder of two layers that knows the captions of two objects, as the package's folder has it."""
    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word for one in all_compositions(2) for word in one.caption.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
                                vocab_size=5 + len(words), max_position_embeddings=32)
    ).save_pretrained(folder)  # fmt: skip
    return folder
