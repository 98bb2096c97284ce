"""Training on samples of several sizes: what a step sees, exact resume, and every recipe that can."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.families.family import Family
from fewstep.recipes import Overrides, recipe_names
from fewstep.training.distillation import Distillation
from fewstep.training.run_options import RunOptions
from fewstep.trajectories import TrajectorySettings
from fewstep.util.errors import SettingsError
from tests.fewstep.families.recipe_matrix import quick
from tests.fewstep.families.teachers import PIXELS, sized_data, sized_teacher
from tests.fewstep.training.scale_matrix import together

BATCH = 4
REFUSED = {"pi-flow": "one size", "diff-instruct-star": "one size", "msd": "share classes",
           "swiftbrush-v2": "needs classes", "plug-and-play": "takes no guide", "slimflow": "depth only"}  # fmt: skip
ALSO_SD = {"plug-and-play", "slimflow"}     # a UNet can


class Stopped(Exception):
    pass


def run(recipe: str, kind: str, folder: Path, steps: int = 4, parts: int = 1, **options) -> Distillation:
    own, one = sized_teacher(kind), quick(recipe).override(Overrides(parts=parts))
    turns = sum(sum(this.turns.values()) for this in one.rounds)
    return Distillation(one, own, RunOptions(steps * turns * one.training.batch, 0, folder, "cpu", **options),
                        data=sized_data(own),
                        trajectories=TrajectorySettings(count=12, steps=2, record_size=4))  # fmt: skip


def test_every_step_is_of_one_size_and_all_have_their_share(tmp_path):
    job = run("lcm", "flux", tmp_path, steps=24)
    trainer, _ = job.trainer(0)
    seen = []
    handle = trainer.setup.networks["student"].network.register_forward_pre_hook(
        lambda _module, _values, named: seen.append(named["img_ids"]), with_kwargs=True)
    trainer.run()
    handle.remove()
    ids = [trainer.setup.networks["student"].sized(k).adapter.call.constants["img_ids"] for k in range(3)]
    assert ids[1].shape == ids[2].shape and not torch.equal(ids[1], ids[2])     # as many tokens in another place
    found = Counter(next(k for k in range(3) if shown.shape == ids[k].shape and torch.equal(shown, ids[k]))
                    for shown in seen)  # fmt: skip
    assert set(found) == {0, 1, 2} and max(found.values()) < 2 * min(found.values())


@pytest.mark.parametrize("recipe", ["lcm", "dmd2", "add", "instaflow"])
def test_interrupted_and_continued_is_the_same(recipe, tmp_path):
    straight = run(recipe, "sd", tmp_path / "straight", checkpoint_images=2 * BATCH).student()

    def stop(done, total, figures):
        if done >= total // 2:
            raise Stopped

    broken = run(recipe, "sd", tmp_path / "broken", checkpoint_images=2 * BATCH)
    with pytest.raises(Stopped):
        broken.student_after(0, stop)
    again = run(recipe, "sd", tmp_path / "broken", checkpoint_images=2 * BATCH).student()
    one, other = (student.denoiser.state_dict() for student in (straight, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_size_without_states_has_no_turn(tmp_path):
    own = sized_teacher("sd")
    data = sized_data(own)
    data.sets = (data.sets[0], None, data.sets[2])
    job = Distillation(quick("lcm"), own, RunOptions(64, 0, tmp_path, "cpu"), data=data)
    assert job.trainer(0)[0].sources.sizes.sizes == [0, 2]


def test_other_data_of_a_later_size_cannot_continue(tmp_path):
    for seed in (0, 1):
        own = sized_teacher("sd")
        data = sized_data(own)
        data.sets[2].x += seed
        job = Distillation(quick("lcm"), own, RunOptions(64, 0, tmp_path, "cpu"), data=data)
        if seed:
            with pytest.raises(SettingsError):
                job.student()
        else:
            job.student()


def test_a_family_of_several_sizes_is_described_and_read_again():
    family = sized_teacher("flux").family
    again = Family.from_dict(family.to_dict())
    assert again.to_dict() == family.to_dict() and again.pixels == PIXELS
    assert [again.at(k).state for k in range(3)] == [family.at(k).state for k in range(3)]
    assert torch.equal(again.at(2).call.constants["img_ids"], family.at(2).call.constants["img_ids"])
    assert again.at(2).arguments["height"] == 48


@pytest.mark.parametrize("shards", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_make_the_student_of_one(shards, tmp_path):
    sized_teacher("sd")     # before processes are forked, of which each would learn a tokenizer of its own

    def train(rank: int, size: int) -> None:
        job = run("dmd2", "sd", tmp_path / str(size), shards=shards and size > 1, parts=2)
        weights = job.student().denoiser.state_dict()
        if rank == 0:
            save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / f"{size}.safetensors")

    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        assert together(size, partial(train, size=size)) == [0] * size
    alone, shared, start = (*(load_file(tmp_path / f"{size}.safetensors") for size in (1, 2)),
                            sized_teacher("sd").state_dict())  # fmt: skip
    if not shards:
        assert all(torch.equal(alone[name], shared[name]) for name in alone)
    numbers = [name for name in alone if alone[name].is_floating_point()]
    way, apart = (sum(float((alone[name] - other[name]).square().sum()) for name in numbers)
                  for other in (start, shared))  # fmt: skip
    assert way > 0 and apart < 1e-3 * way, (apart, way)     # but for the order of sums


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd", "flux"])
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_trains_on_several_sizes_or_says_why_not(recipe, kind, tmp_path):
    if recipe in REFUSED and not (kind == "sd" and recipe in ALSO_SD):
        with pytest.raises(SettingsError, match=REFUSED[recipe]):
            run(recipe, kind, tmp_path)
        return
    student = run(recipe, kind, tmp_path).student()
    for k in range(len(PIXELS)):
        view = student.denoiser.sized(k)
        noise = torch.randn(2, *view.sample_shape, generator=torch.Generator().manual_seed(k))
        drawn = type(student)(view, student.sampler).sample(noise, condition=torch.tensor([4 * k, 4 * k + 1]))
        assert drawn.isfinite().all()
