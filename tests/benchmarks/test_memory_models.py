"""The configurations behind docs/memory.md are those of the networks that people have: their sizes are published."""

import pytest

from benchmarks.memory.models import models

PARAMETERS = {"sdxl": 2_567_463_684, "sd3": 2_028_328_000, "flux": 11_901_408_320, "wan": 1_418_996_800}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_told_from_one_block_and_two_has_as_many_parameters_as_are_published(name):
    model = models()[name]
    one, two = (sum(value.numel() for value in model.denoiser(blocks).parameters()) for blocks in (1, 2))
    assert one + (model.depth - 1) * (two - one) == PARAMETERS[name]


def test_every_model_of_the_table_is_here():
    assert models().keys() == PARAMETERS.keys()
