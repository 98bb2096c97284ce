"""Retrieval and alignment against what they are by definition, and their intervals when samples of a prompt agree."""

import numpy as np
import pytest

from fewstep.metrics.distances.diversity import diversity_within
from fewstep.metrics.distances.text_alignment import found, mean_by_prompt, share_by_prompt
from fewstep.util.errors import SettingsError


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"text {number}" for number in range(count))


def test_images_at_their_texts_are_found_and_random_ones_as_often_as_chance():
    chance = np.random.default_rng(0)
    texts, rows = unit(chance.normal(size=(200, 32))), chance.integers(200, size=4000)
    assert found(texts[rows], texts, rows, names(200), seed=1).all()
    assert not found(-texts[rows], texts, rows, names(200), seed=1).any()
    share = found(unit(chance.normal(size=(4000, 32))), texts, rows, names(200), seed=1).mean()
    assert share == pytest.approx(1 / 64, abs=0.008)
    few = found(unit(chance.normal(size=(4000, 32))), texts[:4], rows % 4, names(4), seed=1).mean()
    assert few == pytest.approx(1 / 4, abs=0.03)


def test_the_others_are_drawn_by_place_alone_and_have_another_wording():
    chance = np.random.default_rng(1)
    texts, images, rows = unit(chance.normal(size=(100, 8))), unit(chance.normal(size=(600, 8))), np.arange(600) % 100
    first = found(images, texts, rows, names(100), seed=3)
    assert np.array_equal(first, found(images, texts, rows, names(100), seed=3))
    assert not np.array_equal(first, found(images, texts, rows, names(100), seed=4))
    twice = np.concatenate([texts, texts])      # rows of another negative text, say: the same wording is no competitor
    again = found(twice[np.arange(200)], twice, np.arange(200), names(100) * 2, seed=3)
    assert again.all()
    with pytest.raises(SettingsError, match="two different prompts"):
        found(images[:1], texts[:1], rows[:1], ("a",), seed=0)


def test_samples_of_one_prompt_are_not_independent():
    rows = np.repeat(np.arange(50), 20)
    hits = (rows % 2).astype(bool)              # every prompt all or nothing: 50 trials, not 1,000
    low, high = share_by_prompt(hits, rows).interval
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 50) ** 0.5, rel=0.1)
    spread = np.tile(np.arange(20) % 2 == 0, 50)
    low, high = share_by_prompt(spread, rows).interval
    assert high - low < 0.08 and share_by_prompt(spread, rows).prompts == 50
    whole = share_by_prompt(np.ones(1000, dtype=bool), rows)
    assert whole.value == 1 and whole.interval[0] == pytest.approx(1 / (1 + 1.96**2 / 50), abs=0.01)
    chance, covered = np.random.default_rng(2), 0
    for _ in range(300):
        values = chance.normal(size=50)[rows] + 0.2 * chance.normal(size=1000)
        low, high = mean_by_prompt(values, rows).interval
        covered += low <= 0 <= high
    assert covered / 300 == pytest.approx(0.94, abs=0.04)


def test_diversity_within_a_prompt_is_that_of_real_images_or_none():
    chance = np.random.default_rng(3)
    reference, labels = chance.normal(size=(400, 6)), np.arange(400) // 4
    assert diversity_within(chance.normal(size=(400, 6)), labels, reference).ratio == pytest.approx(1, abs=0.05)
    centres = chance.normal(size=(100, 6))[labels]
    assert diversity_within(centres, labels, reference).ratio == 0
    half = diversity_within(centres + 0.5 * chance.normal(size=(400, 6)), labels, reference)
    assert half.ratio == pytest.approx(0.5, abs=0.04) and half.interval[0] < 0.5 < half.interval[1]
    assert diversity_within(reference, np.arange(400), reference) is None
