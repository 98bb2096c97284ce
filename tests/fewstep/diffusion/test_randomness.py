"""Keyed randomness: a function of (seed, purpose, index), with the distribution it promises."""

import hashlib
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.diffusion.randomness import Permutation, derive, generator, integers, noise, uniform
from fewstep.util.errors import SettingsError


def test_derive_is_the_head_of_sha256_of_its_arguments():
    head = hashlib.sha256(b"7\0order\x003\x004").digest()[:8]
    assert derive(7, "order", 3, 4) == int.from_bytes(head, "big") >> 1


def test_no_two_arguments_share_a_stream():
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 0), (0, "a", 11), (0, "a", 1, 1)]
    assert len({derive(*key) for key in keys}) == len(keys)
    assert all(0 <= derive(*key) < 2**63 for key in keys)


def test_noise_depends_on_the_index_only():
    whole = noise(3, "trajectories", range(20), (2, 3))
    order = [7, 0, 19, 7]
    assert torch.equal(noise(3, "trajectories", order, (2, 3)), whole[order])
    assert torch.equal(noise(3, "trajectories", torch.tensor(order), (2, 3)), whole[order])
    assert not torch.equal(noise(4, "trajectories", [0], (2, 3)), whole[:1])
    assert not torch.equal(noise(3, "other", [0], (2, 3)), whole[:1])


def test_noise_is_drawn_in_float64_and_cast():
    double = noise(0, "x", range(5), (4, 4), torch.float64)
    assert torch.equal(noise(0, "x", range(5), (4, 4)), double.float())
    assert torch.equal(noise(0, "x", range(5), (4, 4), torch.float16), double.half())


def test_noise_is_the_same_in_another_process_with_other_threads():
    code = (
        "import torch; torch.set_num_threads(2); torch.manual_seed(9)\n"
        "from fewstep.diffusion.randomness import noise\n"
        "import hashlib; print(hashlib.sha256(noise(5, 'p', range(9), (3, 8, 8)).numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(noise(5, "p", range(9), (3, 8, 8)).numpy().tobytes()).hexdigest()


def test_nothing_moves_the_global_generator():
    before = torch.get_rng_state()
    noise(0, "x", range(3), (4,))
    torch.randn(3, generator=generator(0, "x"))
    Permutation(100, 0, "x")(torch.arange(100))
    integers(0, "x", range(3), 5)
    uniform(0, "x", range(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal():
    draws = noise(1, "moments", range(4000), (25,), torch.float64)
    n = draws.numel()
    assert abs(draws.mean()) < 4 / math.sqrt(n)
    assert abs(draws.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((draws[:-1] * draws[1:]).mean()) < 4 / math.sqrt(n)  # neighbours are independent


def test_integers_and_uniforms_fill_their_range_evenly():
    counts = integers(0, "class", range(10_000), 10).bincount(minlength=10)
    assert ((counts - 1000).abs() < 5 * math.sqrt(900)).all()
    draws = uniform(0, "u", range(10_000))
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 4 / math.sqrt(12 * 10_000)
    with pytest.raises(SettingsError, match="high"):
        integers(0, "class", [0], 0)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_a_permutation_is_a_bijection(n, seed, epoch):
    image = Permutation(n, seed, "order", epoch)(torch.arange(n))
    assert torch.equal(image.sort().values, torch.arange(n))


def test_a_permutation_is_a_function_of_its_key_and_position():
    shuffle = Permutation(1000, 5, "order", 2)
    whole = shuffle(torch.arange(1000))
    positions = torch.tensor([[3, 999], [0, 3]])
    assert torch.equal(shuffle(positions), whole[positions])
    assert len(shuffle) == 1000
    others = [Permutation(1000, 5, "order", 3), Permutation(1000, 6, "order", 2), Permutation(1000, 5, "other", 2)]
    assert all((other(torch.arange(1000)) == whole).float().mean() < 0.01 for other in others)


def test_a_permutation_shuffles_evenly():
    counts = torch.zeros(6, 6)
    for seed in range(3000):
        counts[torch.arange(6), Permutation(6, seed, "x")(torch.arange(6))] += 1
    assert ((counts - 500).abs() < 5 * math.sqrt(500 * 5 / 6)).all()


def test_a_permutation_of_a_huge_domain_needs_no_memory():
    shuffle = Permutation(2**40 + 7, 0, "x")
    image = shuffle(torch.arange(10_000))
    assert image.min() >= 0 and image.max() < 2**40 + 7 and image.unique().numel() == 10_000
    assert abs(image.double().mean() / 2**39 - 1) < 0.05


def test_a_permutation_refuses_what_lies_outside():
    for n in (0, 2**62 + 1):
        with pytest.raises(SettingsError, match="1 ≤ n"):
            Permutation(n, 0, "x")
    for positions in ([-1], [5]):
        with pytest.raises(SettingsError, match="0 … 4"):
            Permutation(5, 0, "x")(positions)
    assert Permutation(5, 0, "x")(torch.tensor([], dtype=torch.int64)).numel() == 0
