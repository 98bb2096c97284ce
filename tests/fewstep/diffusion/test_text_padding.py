"""Texts of their own lengths are given to a network no longer than the longest of the batch."""

import torch

from fewstep.diffusion.text_padding import trimmed

RAGGED = ("encoder_hidden_states", "encoder_attention_mask")


def batch(*lengths: int) -> dict[str, torch.Tensor]:
    mask = torch.stack([(torch.arange(6) < length).long() for length in lengths])
    return {"encoder_hidden_states": torch.randn(len(lengths), 6, 3) * mask[..., None], "encoder_attention_mask": mask,
            "pooled": torch.randn(len(lengths), 6)}  # fmt: skip


def test_what_no_text_reaches_is_cut_off():
    found = trimmed(batch(2, 4), RAGGED)
    assert found["encoder_hidden_states"].shape == (2, 4, 3) and found["encoder_attention_mask"].shape == (2, 4)
    assert found["pooled"].shape == (2, 6)      # as wide by chance
    assert found["encoder_attention_mask"].sum(1).tolist() == [2, 4]


def test_a_text_of_nothing_keeps_one_token():
    assert trimmed(batch(0, 0), RAGGED)["encoder_hidden_states"].shape == (2, 1, 3)


def test_without_such_texts_nothing_is_touched():
    given = batch(2, 4)
    assert trimmed(given, ()) is given
