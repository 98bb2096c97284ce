"""The configurations behind docs/memory.md are those of the networks that people have: their sizes are published."""

import pytest

from benchmarks.memory.__main__ import DOCUMENT, RECIPES, SETTINGS, TOLD
from benchmarks.memory.largest_round import KINDS, largest_round
from benchmarks.memory.models import models
from fewstep.recipes import Overrides
from fewstep.training.rehearsal.rounds import Machine
from tasks.config import params_file
from tasks.config.chosen_recipe import chosen_recipe
from tests.project import ROOT

PARAMETERS = {"sd15": 859_520_964, "dit": 749_826_464, "sdxl": 2_567_463_684, "sd3": 2_028_328_000,
              "flux": 11_901_408_320, "wan": 1_418_996_800}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_told_from_one_block_and_two_has_as_many_parameters_as_are_published(name):
    model = models()[name]
    one, two = (sum(value.numel() for value in model.denoiser(blocks).parameters()) for blocks in (1, 2))
    assert one + (model.depth - 1) * (two - one) == PARAMETERS[name]


def test_every_model_of_the_table_is_here():
    assert models().keys() == PARAMETERS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("example", "name", "devices"), [
    ("captioned-images", "sd15", 1), ("dit-dmd2", "dit", 1), ("sd3-tdm", "sd3", 1), ("wan-phased-dmd", "wan", 1),
    ("sdxl-dmd2", "sdxl", 1), ("sdxl-lcm-lora", "sdxl", 1), ("flux-pi-flow", "flux", 8),
])
def test_an_example_trains_on_gpus_of_80_gb(example, name, devices):
    distill = params_file.load(ROOT / "examples" / f"{example}.yaml").distill
    recipe = chosen_recipe(distill)
    training = recipe.training
    at_a_time = training.batch // training.accumulate // training.parts
    machine = Machine(True, distill.gradient_checkpointing, distill.ema_device == "cpu", devices)
    found = largest_round(models()[name], recipe.override(Overrides(batch=at_a_time, accumulate=1, parts=1)), machine,
                          sharded=devices > 1)
    assert sum(found[kind] for kind in KINDS) < 80e9


def test_every_cell_of_the_document_has_figures():
    """Each of these networks serves these recipes (docs/families.md), FLUX too, which true_cfg_scale guides."""
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(TOLD) * len(RECIPES) * len(SETTINGS)
    for row in rows:
        assert len(row) == 10 and all(cell == "–" or float(cell) > 0 for cell in row[3:]), row
