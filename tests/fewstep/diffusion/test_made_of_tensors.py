import gc
import weakref

import torch

from fewstep.diffusion.made_of_tensors import MadeOfTensors, as_double
from fewstep.diffusion.prediction import to_x0
from fewstep.diffusion.processes import like


def test_an_answer_is_the_same_until_the_tensor_the_answer_or_the_one_beside_it_is_another():
    kept, asked = MadeOfTensors(), []

    def total(a, b):
        asked.append(1)
        return a + b

    one, two = torch.ones(3), torch.full((3,), 2.0)
    found = kept.of(one, total, two)
    assert kept.of(one, total, two) is found and len(asked) == 1
    assert torch.equal(kept.of(one, total, torch.full((3,), 5.0)), torch.full((3,), 6.0))
    assert torch.equal(kept.of(one, total, two), torch.full((3,), 3.0))
    two.add_(1)
    assert torch.equal(kept.of(one, total, two), torch.full((3,), 4.0))
    kept.of(one, total, two).zero_()
    assert torch.equal(kept.of(one, total, two), torch.full((3,), 4.0))


def test_what_was_made_goes_with_its_tensor():
    kept, tensor = MadeOfTensors(), torch.ones(3)
    made = weakref.ref(kept.of(tensor, lambda t: t + 1))
    assert made() is not None
    del tensor
    gc.collect()
    assert made() is None and not kept._kept


def test_times_in_float64_and_factors_cast_to_samples_are_found_again():
    times, x = torch.rand(4), torch.randn(4, 3, 2, 2)
    double = as_double(times)
    assert double.dtype == torch.float64 and as_double(times) is double and as_double(double) is double
    assert like(double, x) is like(double, x) and like(double, x).shape == (4, 1, 1, 1)
    assert like(double, x.bfloat16()).dtype == torch.bfloat16


def test_one_alpha_beside_two_sigmas_gives_two_predictions():
    x, alpha = torch.randn(2, 3, dtype=torch.float64), torch.full((2, 1), 0.6, dtype=torch.float64)
    for sigma in (torch.full_like(alpha, 0.8), torch.full_like(alpha, 0.3)):
        expected = (alpha * x - sigma * x) / (alpha**2 + sigma**2)
        assert torch.equal(to_x0(x, x, alpha, sigma, "v_prediction"), expected)
