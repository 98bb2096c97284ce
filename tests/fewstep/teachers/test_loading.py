"""Folders that stock diffusers saved mean here what they mean there, and the other way round."""

import json
import os
import subprocess
import sys

import diffusers
import pytest
import torch
from diffusers import ConsistencyModelPipeline, DDIMPipeline, DDPMPipeline, UNet2DModel

from fewstep.diffusion.adapters import Preconditioned
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.diffusion.sampling import sample
from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import inspect_teacher, load_teacher, save_teacher
from fewstep.util.errors import SettingsError

KINDS = ("epsilon", "sample", "v_prediction")


def unet(classes: int = 0, out: int = 1, **config) -> UNet2DModel:
    network = new_unet(8, 1, classes, (8, 16), null_class=False, generator=torch.Generator().manual_seed(0))
    if out == 1 and not config:
        return network
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(**{**dict(network.config), "out_channels": out, **config}).eval()


def batch() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def saved(folder, pipeline, network, scheduler) -> Denoiser:
    pipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    return load_teacher(folder)


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
@pytest.mark.parametrize("max_shard_size", ["10GB", "20kB"])
def test_weights_under_a_variants_name_are_found_and_computed_with_in_float32(tmp_path, variant, max_shard_size):
    network, scheduler = unet().half(), diffusers.DDPMScheduler()
    DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(
        tmp_path, variant=variant, max_shard_size=max_shard_size
    )
    info, teacher = inspect_teacher(tmp_path), load_teacher(tmp_path)
    assert info.weights and all(f".{variant}" in path.name for path in info.weights)
    assert (len(info.weights) > 1) == (max_shard_size == "20kB")
    weights = network.float().state_dict()
    assert all(torch.equal(weights[name], value) for name, value in teacher.network.state_dict().items())
    assert {value.dtype for value in teacher.network.state_dict().values()} == {torch.float32}


def test_weights_in_several_variants_are_named_and_the_plain_name_comes_first(tmp_path):
    pipeline = DDPMPipeline(unet=unet(), scheduler=diffusers.DDPMScheduler())
    for variant in ("fp16", "bf16"):
        pipeline.save_pretrained(tmp_path, variant=variant)
    with pytest.raises(SettingsError, match="variants bf16, fp16"):
        inspect_teacher(tmp_path)
    pipeline.save_pretrained(tmp_path)
    assert [path.name for path in inspect_teacher(tmp_path).weights] == ["diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("pipeline", [DDPMPipeline, DDIMPipeline])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_x0_is_the_beta_schedulers_own(tmp_path, pipeline, kind, schedule):
    scheduler_class = diffusers.DDPMScheduler if pipeline is DDPMPipeline else diffusers.DDIMScheduler
    scheduler = scheduler_class(beta_schedule=schedule, prediction_type=kind, clip_sample=False)
    network, x = unet(), batch()
    teacher = saved(tmp_path, pipeline, network, scheduler)
    assert teacher.process.kind == "variance_preserving" and teacher.prediction_type == kind
    scheduler.set_timesteps(10)
    for step in (scheduler.timesteps[3], scheduler.timesteps[-1]):
        with torch.no_grad():
            raw = network(x, step).sample
            theirs = scheduler.step(raw, step, x, generator=torch.Generator()).pred_original_sample
            ours = teacher.x0(x, float(step) / 999)
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [
    *("DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"),
    *("HeunDiscreteScheduler", "PNDMScheduler", "LCMScheduler"),
])  # fmt: skip
def test_every_beta_scheduler_describes_the_same_chain(tmp_path, name):
    kind = getattr(diffusers, name)
    scheduler = kind(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.013, num_train_timesteps=500)
    teacher = saved(tmp_path, DDPMPipeline, unet(), scheduler)
    expected = VariancePreserving.scheduled("scaled_linear", 500, beta_start=0.001, beta_end=0.013)
    assert teacher.process == expected and teacher.adapter.scale == 499


def test_x0_is_flow_matchings_own(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    network, x = unet(), batch()
    teacher = saved(tmp_path, DDPMPipeline, network, scheduler)
    assert teacher.process == Flow() and teacher.prediction_type == "flow_prediction"
    scheduler.set_timesteps(4)
    sigma, timestep = scheduler.sigmas[1], scheduler.timesteps[1]
    with torch.no_grad():
        theirs = x - sigma * network(x, timestep).sample
        assert torch.allclose(teacher.x0(x, float(sigma)), theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_flow_sigmas_of_a_beta_scheduler_mean_a_flow(tmp_path, name):
    scheduler = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction")
    network, x = unet(), batch()
    teacher = saved(tmp_path, DDPMPipeline, network, scheduler)
    assert teacher.process == Flow()
    scheduler.set_timesteps(5)
    scheduler._init_step_index(scheduler.timesteps[2])
    sigma = scheduler.sigmas[2]
    assert abs(1000 * sigma - scheduler.timesteps[2]) < 1  # they cut the timestep to a whole number
    with torch.no_grad():
        theirs = scheduler.convert_model_output(network(x, 1000 * sigma).sample, sample=x)
    assert torch.allclose(teacher.x0(x, float(sigma)), theirs, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_x0_is_edms_own(tmp_path, kind):
    scheduler = diffusers.EDMEulerScheduler(sigma_max=50.0, sigma_data=0.6, prediction_type=kind)
    network, x = unet(), batch()
    teacher = saved(tmp_path, DDPMPipeline, network, scheduler)
    assert teacher.process == EDM(0.002, 50.0, 7.0)
    scheduler.set_timesteps(6)
    for k in (0, 3):
        scheduler._step_index = k
        state, sigma = x * scheduler.sigmas[k], scheduler.sigmas[k]
        with torch.no_grad():
            raw = network(scheduler.precondition_inputs(state, sigma), scheduler.timesteps[k]).sample
            theirs = scheduler.precondition_outputs(state, raw, sigma)
            assert torch.allclose(teacher.x0(state, float(sigma)), theirs, atol=1e-4)


def test_noise_levels_in_the_wrong_order_are_refused_with_the_file(tmp_path):
    scheduler = diffusers.EDMEulerScheduler(sigma_min=90.0, sigma_max=80.0, prediction_type="epsilon")
    with pytest.raises(SettingsError, match=r"scheduler_config\.json: EDM needs 0 < sigma_min < sigma_max"):
        saved(tmp_path, DDPMPipeline, unet(), scheduler)


def test_x0_is_a_consistency_models_own(tmp_path):
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    network, x = unet(classes=4), batch()
    teacher = saved(tmp_path, ConsistencyModelPipeline, network, scheduler)
    labels = torch.tensor([0, 3, 1])
    assert teacher.num_classes == 4 and teacher.null_class is None
    scheduler.set_timesteps(1)
    timestep, state = scheduler.timesteps[0], 80 * x
    with torch.no_grad():
        raw = network(scheduler.scale_model_input(state, timestep), timestep, class_labels=labels).sample
        theirs = scheduler.step(raw, timestep, state).prev_sample
        assert torch.allclose(teacher.x0(state, 80.0, labels).double(), theirs.double(), atol=1e-4)


def test_learned_variances_are_left_out(tmp_path):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    network, x = unet(out=2), batch()
    teacher = saved(tmp_path, DDPMPipeline, network, scheduler)
    with torch.no_grad():
        assert torch.equal(teacher.predict(x, 0.5).output, network(x, torch.tensor(499.5)).sample[:, :1])


def test_zero_terminal_snr_is_loaded(tmp_path):
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    teacher = saved(tmp_path, DDPMPipeline, unet(), scheduler)
    assert torch.isfinite(sample(teacher, batch(), steps=4).x).all()


def test_loading_neither_draws_nor_trains(tmp_path):
    before = torch.get_rng_state()
    teacher = saved(tmp_path, DDPMPipeline, unet(), diffusers.DDPMScheduler())
    assert torch.equal(torch.get_rng_state(), before)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


DENOISERS = [
    (VariancePreserving.cosine(), "v_prediction", None),
    (VariancePreserving.scheduled("linear"), "epsilon", None),
    (VariancePreserving.scheduled("scaled_linear", 400), "sample", None),
    (Flow(), "flow_prediction", None),
    (EDM(0.01, 60.0), "sample", Preconditioned("edm", 0.4, sign=-1.0)),
    (EDM(), "sample", Preconditioned("consistency")),
]


@pytest.mark.parametrize("process, kind, adapter", DENOISERS)
def test_a_saved_teacher_comes_back(tmp_path, process, kind, adapter):
    network = new_unet(8, 1, 3, (8, 16))
    teacher = Denoiser(network, process, kind, (1, 8, 8), 3, 3, adapter)
    save_teacher(teacher, tmp_path / "a")
    again = load_teacher(tmp_path / "a")
    assert again.describe() == teacher.describe()
    x, labels = process.initial(batch()), torch.tensor([0, 1, 2])
    with torch.no_grad():
        for t in process.grid(3).tolist():
            assert torch.equal(again.x0(x, t, labels, 2.0), teacher.x0(x, t, labels, 2.0))
    save_teacher(again, tmp_path / "b")
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path
    text = (tmp_path / "b" / "unet" / "config.json").read_text() + (tmp_path / "b" / "model_index.json").read_text()
    assert str(tmp_path) not in text


@pytest.mark.parametrize("process, kind, adapter", DENOISERS)
def test_without_our_description_a_saved_teacher_means_the_same(tmp_path, process, kind, adapter):
    teacher = Denoiser(new_unet(8, 1, 3, (8, 16), null_class=False), process, kind, (1, 8, 8), 3, None, adapter)
    save_teacher(teacher, tmp_path)
    (tmp_path / "fewstep.json").unlink()
    again = load_teacher(tmp_path)
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        for t in process.grid(3).tolist():
            x = process.initial(batch())
            assert torch.allclose(again.x0(x, t, labels), teacher.x0(x, t, labels), rtol=1e-3, atol=1e-4)


def test_stock_diffusers_loads_and_samples_a_saved_teacher_by_class(tmp_path):
    """In a process of its own, in which nothing of fewstep is imported."""
    teacher = Denoiser(new_unet(8, 1, 3, (8, 16)), VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 3, 3)
    save_teacher(teacher, tmp_path)
    code = f"""
import json, sys, torch
from diffusers import ConsistencyModelPipeline, DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(tmp_path)!r})
assert type(pipe) is ConsistencyModelPipeline
pipe.set_progress_bar_config(disable=True)
images = pipe(3, class_labels=[0, 1, 2], num_inference_steps=4, output_type="pt",
              generator=torch.Generator().manual_seed(0)).images
assert not [name for name in sys.modules if name == "fewstep" or name.startswith("fewstep.")]
print(json.dumps(images.flatten().tolist()))
"""
    theirs = torch.tensor(json.loads(alone(code)))
    x = noise = batch()
    labels, process = torch.tensor([0, 1, 2]), teacher.process
    assert torch.equal(noise, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    times = process.grid(4)
    with torch.no_grad():
        for k, t in enumerate(times):
            prediction = teacher.predict(x, t, labels)
            x = prediction.x0
            if k < 3:
                x = process.add_noise(x, prediction.epsilon, times[k + 1])
    assert torch.allclose((x / 2 + 0.5).clamp(0, 1).flatten(), theirs, atol=1e-5)
    assert inspect_teacher(tmp_path).parameters == sum(p.numel() for p in teacher.parameters())


def alone(code: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_loading_in_several_threads_leaves_modules_as_they_are(tmp_path):
    """accelerate's empty initialisation patches nn.Module for the whole process, and not in a thread-safe way."""
    from concurrent.futures import ThreadPoolExecutor

    from fewstep.networks.unet_mlp import new_unet
    from fewstep.teachers.loading import load_network

    new_unet(8, 1, 0, (8, 16), 1, generator=torch.Generator().manual_seed(0)).save_pretrained(tmp_path / "unet")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(load_network, [tmp_path / "unet"] * 12))
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    first = loaded[0].state_dict()
    assert all(torch.equal(value, one.state_dict()[name]) for one in loaded for name, value in first.items())
