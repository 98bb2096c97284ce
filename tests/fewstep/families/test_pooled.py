"""Which of a condition's tensors stands for its text."""

import torch

from fewstep.families.pooled import pooled


def test_the_length_of_a_sound_is_no_text_however_wide_it_is():
    tokens = torch.randn(3, 18, 4, generator=torch.Generator().manual_seed(0))
    found = pooled({"global_hidden_states": torch.ones(3, 1, 8), "encoder_hidden_states": tokens})
    assert torch.allclose(found, tokens.mean(1))


def test_a_text_of_one_token_alone_is_one_and_padding_does_not_count():
    alone = torch.ones(3, 1, 8)
    assert torch.equal(pooled({"encoder_hidden_states": alone}), alone[:, 0])
    tokens = torch.tensor([[[1.0], [3.0], [90.0]]])
    masked = pooled({"encoder_hidden_states": tokens, "encoder_attention_mask": torch.tensor([[1, 1, 0]])})
    assert torch.equal(masked, torch.tensor([[2.0]]))
