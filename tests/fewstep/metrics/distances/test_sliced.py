"""Sliced Wasserstein distance against closed forms, and its invariances."""

import pytest
import torch

from fewstep.metrics.distances.sliced import sliced_wasserstein
from fewstep.util.errors import SettingsError


def draw(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_samples_have_distance_zero_whatever_their_order():
    x = draw(300, 5, 1)
    assert sliced_wasserstein(x, x) == 0
    assert sliced_wasserstein(x, x[torch.randperm(300, generator=torch.Generator().manual_seed(2))]) == pytest.approx(0)


def test_a_shift_moves_every_projection_by_its_component():
    x, shift = draw(200, 6, 1), torch.tensor([3.0, 0, 0, 0, 0, 4.0], dtype=torch.float64)
    # mean over directions of <shift, u>^2 is |shift|^2 / d
    got = sliced_wasserstein(x, x + shift, projections=20_000)
    assert got == pytest.approx((25 / 6) ** 0.5, rel=0.02)


def test_scaled_gaussians_match_the_closed_form():
    # in every direction W2(N(0, 1), N(0, 9)) = 2
    assert sliced_wasserstein(draw(40_000, 3, 1), 3 * draw(40_000, 3, 2)) == pytest.approx(2, rel=0.02)


def test_one_dimension_with_unequal_counts_is_exact():
    x = torch.tensor([[0.0], [1.0]])
    y = torch.tensor([[0.0], [0.0], [3.0]])
    # quantile functions: 0, 0, 1, 1 on thirds and halves -> 1/2 to 2/3 differs by 1, 2/3 to 1 by 2
    assert sliced_wasserstein(x, y) == pytest.approx((1 / 6 + 4 / 3) ** 0.5)
    assert sliced_wasserstein(x, x.repeat(7, 1)) == pytest.approx(0)


def test_images_are_flattened_and_the_generator_decides_the_directions():
    x, y = draw(50, 16, 1).reshape(50, 1, 4, 4), draw(50, 16, 2).reshape(50, 1, 4, 4)
    before = torch.get_rng_state()
    keyed = [sliced_wasserstein(x, y, 32, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert keyed[0] == keyed[1] != keyed[2]
    assert torch.equal(before, torch.get_rng_state())


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match="equal dimension"):
        sliced_wasserstein(draw(5, 2, 1), draw(5, 3, 1))
    with pytest.raises(SettingsError, match="non-empty"):
        sliced_wasserstein(draw(0, 2, 1), draw(5, 2, 1))
