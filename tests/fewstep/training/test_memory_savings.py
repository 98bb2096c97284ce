"""What saves memory on the device: no bit of a result changes where none is said to; nothing is held twice."""

import gc
import weakref

import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.recipes import Overrides, parse_recipe
from fewstep.training.distillation import Distillation
from fewstep.training.roles.ema import Average
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.util.errors import SettingsError
from tests.fake_device import FakeCuda
from tests.fewstep.families.recipe_matrix import quick
from tests.fewstep.families.teachers import teacher as family_teacher
from tests.fewstep.training.small import BATCH, finish, run, teacher, tiny, trainers_of

LORA = {"rank": 2}


def adapted():
    """A recipe whose student and fake score train adapters."""
    terms = [{"term": "distribution_matching", "fake_score": {"lora": LORA}}]
    recipe = {"name": "adapted", "student": {"lora": LORA}, "training": {"batch": BATCH}}
    return parse_recipe(recipe | {"rounds": [{"turns": {"fake_score": 1, "student": 1}, "terms": terms}]}, "adapted")


@pytest.mark.parametrize("name", ["dmd2", "cd", "tcm", "lcm-lora"])
def test_checkpointing_and_copies_on_the_cpu_change_no_bit(tmp_path, name):
    plain = finish(run(tiny(name), tmp_path / "plain", 12 * BATCH))
    saving = run(tiny(name), tmp_path / "saving", 12 * BATCH, gradient_checkpointing=True, averages_apart=True)
    found = finish(saving)
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    again = finish(run(tiny(name), tmp_path / "saving", 12 * BATCH, averages_apart=True))  # read from checkpoints
    assert all(torch.equal(again[name], value) for name, value in plain.items())


def test_an_average_apart_lies_on_the_cpu_and_meets_the_weights_on_their_device():
    network = torch.nn.Linear(3, 2)
    with FakeCuda():
        network.to("cuda")
        average = Average(network, 0.9, apart=True)
        average.mix(0.5)
    assert all(value.device.type == "cpu" for value in average.weights.values())
    assert all(value.is_cuda for value in network.parameters())


def base(denoiser: Denoiser) -> dict[str, torch.nn.Parameter]:
    return {name.replace(".base_layer", ""): p for name, p in denoiser.named_parameters() if ".lora_" not in name}


def test_adapters_of_several_roles_and_the_teacher_lie_over_one_base(tmp_path):
    job = run(adapted(), tmp_path, 4 * BATCH)
    before = {name: value.clone() for name, value in job.teacher.state_dict().items()}
    trainers = trainers_of(job)
    finish(job)
    networks = trainers[0].state.networks
    for role in ("student", "fake_score"):
        assert all(base(networks[role])[name] is p for name, p in base(networks["teacher"]).items()), role
    assert all(torch.equal(job.teacher.state_dict()[name], value) for name, value in before.items())
    assert all(not p.requires_grad for p in job.teacher.parameters())


@pytest.mark.parametrize("recipe", ["dmd2", "adapted"])
def test_what_rests_is_in_bfloat16_while_a_round_runs_and_whole_after_it(tmp_path, recipe):
    recipe = adapted() if recipe == "adapted" else tiny(recipe)
    wide = recipe.override(Overrides(batch=BATCH, precision="bfloat16"))
    job = run(wide.override(Overrides(frozen="bfloat16")), tmp_path / "frozen", 4 * BATCH)
    before = {name: value.clone() for name, value in job.teacher.state_dict().items()}
    trainers, dtypes = trainers_of(job), {}

    def look(*_):
        for role, network in trainers[0].state.networks.items():
            dtypes[role] = {str(p.dtype) for name, p in network.named_parameters() if ".lora_" not in name}

    found = finish(job, look)
    trained = "torch.bfloat16" if recipe.student.lora else "torch.float32"
    assert dtypes == {"teacher": {"torch.bfloat16"}, "student": {trained}, "fake_score": {trained}}
    assert all(torch.equal(job.teacher.state_dict()[name], value) for name, value in before.items())
    plain = finish(run(wide, tmp_path / "plain", 4 * BATCH))
    apart = max(float((found[name] - value).abs().max()) for name, value in plain.items())
    assert 0 < apart < 1e-2
    assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float32}
    again = finish(run(wide.override(Overrides(frozen="bfloat16")), tmp_path / "frozen", 4 * BATCH))
    assert all(torch.equal(again[name], value) for name, value in found.items())
    with pytest.raises(SettingsError, match="frozen weights in bfloat16 go with computations in it"):
        finish(run(wide.override(Overrides(frozen="bfloat16", precision="float32")), tmp_path / "odd", 4 * BATCH))


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "wan", "pixart"])
@pytest.mark.parametrize("name", ["lcm-lora", "dmd2"])
def test_networks_of_families_compute_with_a_base_in_bfloat16(tmp_path, kind, name):
    own = family_teacher(kind)
    recipe = quick(name).override(Overrides(frozen="bfloat16", precision="bfloat16", guided_calls="sequential"))
    options = RunOptions(6 * 4, 0, tmp_path, gradient_checkpointing=True, averages_apart=True)
    x = torch.randn(8, *own.sample_shape, generator=torch.Generator().manual_seed(0))
    student = Distillation(recipe, own, options, data=TensorData(x, torch.arange(8) % 4)).student()
    assert student.sample(x[:2], condition=torch.arange(2)).isfinite().all()


def test_a_finished_round_leaves_what_a_later_one_names_and_no_more(tmp_path):
    job, averages = run(tiny("progressive"), tmp_path), []
    make = job.trainer

    def made(index: int):
        trainer, sampler = make(index)
        averages.append(weakref.ref(trainer.state.average))
        return trainer, sampler

    job.trainer = made
    job.student_after(1)
    gc.collect()
    assert [average() for average in averages] == [None, None]


@pytest.mark.parametrize("guidance", [2.0, torch.tensor([1.0, 3.0, 0.5])])
def test_guidance_by_a_call_for_each_branch_is_that_of_one_call(guidance):
    own = teacher().eval()
    sizes = []
    own.network.register_forward_pre_hook(lambda _m, _v, named: sizes.append(len(named["sample"])), with_kwargs=True)
    x, labels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1])
    joint = own.predict(x, 0.5, labels, guidance).output
    own.guided_calls = "sequential"
    apart = own.predict(x, 0.5, labels, guidance).output
    assert sizes == [6, 3, 3] and own.evaluations == 4
    assert torch.allclose(apart, joint, atol=1e-5)


def test_a_recipe_that_guides_its_teacher_is_distilled_by_either_form(tmp_path):
    found = [finish(run(tiny("lcm", guided_calls=form), tmp_path / form, 4 * BATCH))
             for form in ("joint", "sequential")]  # fmt: skip
    apart = max(float((found[0][name] - value).abs().max()) for name, value in found[1].items())
    assert apart < 1e-3
