"""The image tower finds texts of images that it has not seen, keeps to its file format, and names what does not fit."""

import numpy as np
import pytest
import torch

from fewstep.data.prompt import Prompt
from fewstep.data.prompts import PromptTable
from fewstep.metrics.distances.text_alignment import found
from fewstep.networks.feature_files import load_features, save_features
from fewstep.networks.text_tower import fit_text_tower
from fewstep.util.errors import SettingsError

COUNT = 24


@pytest.fixture(scope="module")
def world():
    """Images of 8 x 8 whose three mean colours are what the embedding of their text says, among much else."""
    source = torch.Generator().manual_seed(0)
    colours = torch.rand(COUNT, 3, generator=source) * 1.6 - 0.8
    embedding = torch.cat([colours @ torch.randn(3, 20, generator=source), torch.full((COUNT, 4), 5.0)], 1)
    rows = torch.arange(480) % COUNT
    images = colours[rows][:, :, None, None] + 0.1 * torch.randn(480, 3, 8, 8, generator=source)
    return images, rows, PromptTable(tuple(Prompt(f"colour {k}") for k in range(COUNT))).embedded(embedding.numpy())


@pytest.fixture(scope="module")
def tower(world):
    images, rows, table = world
    return fit_text_tower(images[:240], rows[:240], torch.from_numpy(table.embedding), seed=0, steps=120, batch=24,
                          features=8, width=8)  # fmt: skip


def test_it_finds_the_texts_of_images_it_has_not_seen(world, tower):
    images, rows, table = world
    with torch.no_grad():
        seen = tower.embed(images[240:]).double().numpy()
    texts = tower.texts(table)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1) and np.allclose(np.linalg.norm(seen, axis=1), 1)
    assert found(seen, texts, rows[240:].numpy(), table.texts, seed=0).mean() > 0.5      # 1/24 by chance
    assert tower.features(images[:5]).shape == (5, 8)


def test_files(world, tower, tmp_path):
    images, _, table = world
    save_features(tower, tmp_path)
    again = load_features(tmp_path)
    assert torch.equal(again.embed(images[:9]), tower.embed(images[:9])) and np.array_equal(again.texts(table),
                                                                                             tower.texts(table))
    with pytest.raises(SettingsError, match="embeddings of 24 numbers, the prompts have 3"):
        again.texts(PromptTable(table.prompts).embedded(np.zeros((COUNT, 3))))
    with pytest.raises(SettingsError, match="the prompts have none"):
        again.texts(PromptTable(table.prompts))


def test_two_texts_are_too_few_and_so_are_many_of_one_embedding(world):
    images, rows, table = world
    with pytest.raises(SettingsError, match="at least 3 texts .*, the fit split has 2"):
        fit_text_tower(images, rows % 2, torch.from_numpy(table.embedding), seed=0, steps=1)
    with pytest.raises(SettingsError, match="different embeddings, the fit split has 1"):
        fit_text_tower(images, rows, torch.ones(COUNT, 24), seed=0, steps=1)
