"""What a rehearsal tells of a run's memory is what the run takes, by PyTorch's own account of a real step."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fewstep.recipes import Overrides, Recipe
from fewstep.training.distillation import Distillation
from fewstep.training.loss_meter import Figures
from fewstep.training.memory import RoundMemory, memory_of_networks
from fewstep.training.rehearsal.rounds import Machine, images_for, rehearse
from fewstep.training.rehearsal.tensor_memory import TensorMemory, storages
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.trajectories import TrajectorySettings
from tests.fewstep.families.recipe_matrix import quick, refusal, teacher_of
from tests.fewstep.training.each_recipe import EACH_RECIPE

BATCH = 16


def settings(name: str, **overrides) -> Recipe:
    return quick(name).override(Overrides(**{"batch": BATCH, "precision": "float32"} | overrides))


def trainer(recipe: Recipe, kind: str, folder, **options) -> RoundTrainer:
    """What really trains the first round."""
    own = teacher_of(kind)
    x = torch.randn(2 * BATCH, *own.sample_shape, generator=torch.Generator().manual_seed(0))
    data = TensorData(x, torch.arange(2 * BATCH) % (own.num_classes if own.num_classes < 8 else 4))
    pairs = TrajectorySettings(count=2 * BATCH, steps=2, record_size=BATCH)
    given = RunOptions(images_for(recipe), 0, folder, keep_checkpoints=False, **options)
    return Distillation(recipe, own, given, data=data, trajectories=pairs).trainer(0)[0]


def taken(own: RoundTrainer) -> int:
    """Bytes: of the round's tensors at rest, and the most that the allocator gave within a step beside them."""
    figures = Figures("a test")
    turns = [own.cycle.index(role) + 32 * len(own.cycle) for role in own.round.turns]
    for step in turns:
        own.turn(step, figures)
    tensors = [*own.state.tensors().values(), *own.placement.kept]
    tensors += [value for network in own.state.networks.values() for value in network.state_dict().values()]
    return sum(storages(tensors).values()) + max(_most(own, step, figures) for step in turns)


def _most(own: RoundTrainer, step: int, figures: Figures) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            own.turn(step, figures)
    now = most = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def told(recipe: Recipe, kind: str, **options) -> RoundMemory:
    return rehearse(recipe, teacher_of(kind), Machine(gpu=False, **options), states=2)[0]


@pytest.mark.parametrize(("name", "kind", "options", "overrides"), [
    ("kd", "unet", {}, {}), ("dmd2", "unet", {}, {"frozen": "bfloat16", "precision": "bfloat16"}),
    ("cd", "unet", {"averages_apart": True}, {}), ("lcm-lora", "sdxl", {"gradient_checkpointing": True}, {}),
    ("tdm", "sd3", {}, {"accumulate": 2}), ("lcm", "sd", {}, {"guided_calls": "sequential"}),
    pytest.param("dmd2", "flux", {"gradient_checkpointing": True}, {}, marks=pytest.mark.slow),
    pytest.param("tdm", "wan", {}, {}, marks=pytest.mark.slow),
], ids=lambda value: value if isinstance(value, str) else "-".join(value))  # fmt: skip
def test_what_is_told_is_within_a_tenth_of_what_is_taken(tmp_path, name, kind, options, overrides):
    recipe = settings(name, **overrides)
    found = told(recipe, kind, **options)
    own = trainer(recipe, kind, tmp_path, **options)
    real = taken(own)
    assert abs(found.total + found.apart - real) < 0.1 * real, (found.kinds, real)
    assert found.checkpoint == sum(value.nbytes for value in own.state.tensors().values())
    assert found.activations > 0 and found.total == sum(found.kinds.values())


@pytest.mark.parametrize(("savings", "kind"), [
    ({"gradient_checkpointing": True}, "activations"), ({"averages_apart": True}, "average"),
])
def test_what_saves_memory_is_told_to(savings, kind):
    recipe = settings("dmd2")
    plain, saving = told(recipe, "sd3"), told(recipe, "sd3", **savings)
    assert saving.kinds[kind] < plain.kinds[kind] and saving.total < plain.total
    assert saving.apart == (plain.kinds["average"] if kind == "average" else 0)


def test_adapters_lie_over_the_teachers_weights_and_frozen_ones_take_half():
    whole, half = (told(settings("lcm-lora", precision="bfloat16", **more), "sd3")
                   for more in ({}, {"frozen": "bfloat16"}))  # fmt: skip
    roles = {one.role: one for one in whole.roles}
    buffers = sum(value.nbytes for value in teacher_of("sd3").network.buffers())    # positions, of the student's own
    assert abs(roles["student"].weights - 4 * roles["student"].trained - buffers) < 1024
    parts = {one.role: one for one in half.roles}
    assert parts["teacher"].weights < 0.6 * roles["teacher"].weights
    assert parts["student"].weights == roles["student"].weights and half.apart > 0 == whole.apart


@pytest.mark.parametrize("name", EACH_RECIPE)
def test_every_recipe_can_be_rehearsed(name):
    kind = "unet"
    if refusal(name, kind) is not None:
        pytest.skip("refused")
    recipe = quick(name)
    rounds = rehearse(recipe, teacher_of(kind), Machine(gpu=True))
    assert [one.round for one in rounds] == [k + 1 for k in range(len(recipe.rounds))]
    assert all(one.activations > 0 and one.kinds["weights"] > 0 for one in rounds)


@pytest.mark.parametrize("name", ["dmd2", "lcm-lora"])
def test_what_is_said_as_a_run_begins_is_what_its_networks_take(name):
    recipe = settings(name)
    found = told(recipe, "unet").kinds
    parameters = sum(one.numel() for one in teacher_of("unet").parameters())
    real = found["weights"] + found["gradients"] + found["moments"] + found["average"]
    said = memory_of_networks(recipe, parameters)
    assert said <= real and (name == "lcm-lora" or real < 1.05 * said)


def test_a_tensor_is_counted_once_as_long_as_it_lives():
    with TensorMemory() as memory:
        x = torch.zeros(100)
        y = x[10:]
        assert memory.live == 400
        z = x + 1
        assert (memory.live, memory.peak) == (800, 800)
        del z
        assert (memory.live, memory.peak) == (400, 800)
        del x
        assert memory.live == 400 and len(y) == 90
        del y
        assert memory.live == 0
        memory.restart()
        assert memory.peak == 0
