"""An exported student samples, by class, where only torch and diffusers are; our loader executes nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from fewstep.diffusion.adapters import Angle, Preconditioned
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.students.export import export_student, is_stock, load_student
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.util.errors import SettingsError

VP = VariancePreserving.cosine()
CASES = {
    "vp-1": (VP, "v_prediction", None, "ode", 1),
    "vp-3": (VP, "v_prediction", None, "ode", 3),
    "vp-8": (VP, "v_prediction", None, "ode", 8),
    "vp-x0-2": (VP, "sample", None, "ode", 2),
    "vp-epsilon-4": (VariancePreserving.scheduled("linear"), "epsilon", None, "ode", 4),
    "vp-renoise-1": (VP, "v_prediction", None, "renoise", 1),
    "vp-renoise-4": (VP, "v_prediction", None, "renoise", 4),
    "flow-1": (Flow(), "flow_prediction", None, "ode", 1),
    "flow-4": (Flow(), "flow_prediction", None, "ode", 4),
    "edm-2": (EDM(), "sample", None, "ode", 2),
    "consistency-2": (EDM(), "sample", Preconditioned("consistency"), "renoise", 2),
}
STOCK = {"vp-1", "vp-3", "vp-8", "vp-x0-2", "vp-epsilon-4", "vp-renoise-1"}


def student(process=VP, kind="v_prediction", adapter=None, sampler="ode", steps=1, channels=1) -> Student:
    network = new_unet(8, channels, 3, (8, 16))
    origin = Denoiser(network, process, kind, (channels, 8, 8), 3, 3, adapter)
    return make_student(origin, StudentSettings(steps=steps, sampler=sampler)).eval()


def draw(n: int = 4, channels: int = 1) -> torch.Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(3))


ALONE = """
import json, sys, torch
from diffusers import DiffusionPipeline
found = {}
for name, folder, steps in json.loads(sys.argv[1]):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    out = [pipe(4, class_labels=[0, 1, 2, 1], num_inference_steps=k, output_type="pt",
                generator=torch.Generator().manual_seed(3)).images.flatten().tolist() for k in steps]
    default = pipe(4, class_labels=torch.tensor([0, 1, 2, 1]), output_type="np",
                   generator=torch.Generator().manual_seed(3)).images
    pil = pipe(1, class_labels=[2]).images[0]
    found[name] = [type(pipe).__name__, out, default.shape, pil.size]
assert not [name for name in sys.modules if name == "fewstep" or name.startswith("fewstep.")]
print(json.dumps(found))
"""


def test_a_process_with_torch_and_diffusers_alone_samples_every_kind_by_class(tmp_path):
    jobs, expected, labels = [], {}, torch.tensor([0, 1, 2, 1])
    for name, case in CASES.items():
        one = student(*case)
        folder = tmp_path / name
        export_student(one, folder)
        assert is_stock(one) == (name in STOCK) == (not (folder / "pipeline.py").exists())
        steps = sorted({case[4], 2}) if case[3] == "ode" else [case[4]]
        jobs.append([name, str(folder), steps])
        expected[name] = [(one.sample(draw(), k, labels) / 2 + 0.5).clamp(0, 1).flatten() for k in steps]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (pipeline, images, shape, size) in json.loads(done.stdout).items():
        assert pipeline == ("ConsistencyModelPipeline" if name in STOCK else "FewstepPipeline")
        assert shape == [4, 8, 8, 1] and size == [8, 8]
        for theirs, ours in zip(images, expected[name], strict=True):
            assert torch.allclose(torch.tensor(theirs), ours, atol=2e-6), name


@pytest.mark.parametrize("name", CASES)
def test_our_loader_brings_the_student_back(tmp_path, name):
    one = student(*CASES[name])
    export_student(one, tmp_path / "a")
    again = load_student(tmp_path / "a")
    labels = torch.tensor([0, 1, 2, 1])
    for steps in (None, 3):
        assert torch.equal(again.sample(draw(), steps, labels, seed=7), one.sample(draw(), steps, labels, seed=7))
    assert again.sampler == one.sampler and not again.training
    export_student(again, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_safetensors_json_and_our_pipeline_only(tmp_path):
    export_student(student(Flow(), "flow_prediction"), tmp_path)
    names = set(contents(tmp_path))
    assert names == {
        *("fewstep.json", "model_index.json", "pipeline.py", "scheduler/scheduler_config.json", "unet/config.json"),
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert "fewstep" not in [line.split()[1] for line in (tmp_path / "pipeline.py").read_text().splitlines()
                             if line.startswith(("import ", "from "))]  # fmt: skip


def test_our_loader_never_executes_the_folder(tmp_path):
    export_student(student(Flow(), "flow_prediction"), tmp_path)
    (tmp_path / "pipeline.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    for module in ("fewstep", "unet", "torch"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('executed')")
    load_student(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_given_times_are_exported(tmp_path):
    one = student(steps=2)
    one.sampler = SamplerSettings(steps=2, times=(1.0, 0.3))
    export_student(one, tmp_path)
    assert not is_stock(one) and (tmp_path / "pipeline.py").exists()
    labels = torch.tensor([0, 1, 2, 1])
    assert torch.equal(load_student(tmp_path).sample(draw(), condition=labels), one.sample(draw(), condition=labels))


def test_colour_and_unconditional_students_export(tmp_path):
    plain = Denoiser(new_unet(8, 3, 0, (8, 16)), Flow(), "flow_prediction", (3, 8, 8))
    one = make_student(plain, StudentSettings()).eval()
    export_student(one, tmp_path)
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    raw = pipe(noise=draw(2, 3), output_type="raw").images
    assert torch.allclose(raw, one.sample(draw(2, 3)), atol=1e-6)
    assert pipe(2).images[0].mode == "RGB"
    with pytest.raises(ValueError, match="unconditional"):
        pipe(2, class_labels=[0, 1])
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8, got 5"):
        pipe(2, num_inference_steps=5)


def test_an_exported_pipeline_refuses_labels_it_does_not_know(tmp_path):
    from diffusers import DiffusionPipeline

    export_student(student(Flow(), "flow_prediction"), tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    for odd in ([0, 4], [0, -1], [0, 1.7], [0, 1, 2]):
        with pytest.raises(ValueError, match="class_labels must be 2 integers of 0 … 3, got"):
            pipe(2, class_labels=odd)


def test_what_cannot_be_exported_is_refused(tmp_path):
    network = build(lambda: ResidualMLP((2,), 4, 16, 1))
    one = Student(Denoiser(network, VP, "v_prediction", (2,), 3, 3, Angle()))
    with pytest.raises(SettingsError, match="ResidualMLP cannot be exported"):
        export_student(one, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_no_student_is_refused(tmp_path):
    from fewstep.teachers import save_teacher

    with pytest.raises(SettingsError, match="nowhere"):
        load_student(tmp_path / "nowhere")
    save_teacher(student().denoiser, tmp_path / "teacher")
    with pytest.raises(SettingsError, match="no exported student"):
        load_student(tmp_path / "teacher")
    export_student(student(), tmp_path / "good")
    for path in sorted(path for path in (tmp_path / "good").rglob("*") if path.is_file()):
        broken = shutil.copytree(tmp_path / "good", tmp_path / "broken")
        (broken / path.relative_to(tmp_path / "good")).unlink()
        with pytest.raises(SettingsError, match="broken"):
            load_student(broken)
        shutil.rmtree(broken)
    description = tmp_path / "good" / "fewstep.json"
    good = json.loads(description.read_text())
    for change, words in (
        ({"sampler": {"kind": "odd"}}, "sampler.*kind"),
        ({"process": {"kind": "odd"}}, "noise process 'odd'"),
        ({"adapter": {"kind": "odd"}}, "adapter 'odd'"),
    ):
        description.write_text(json.dumps(good | change))
        with pytest.raises(SettingsError, match=words):
            load_student(tmp_path / "good")


@pytest.mark.parametrize("name", ["vp-1", "vp-epsilon-4"])
def test_the_stock_scheduler_steps_where_the_student_does(tmp_path, name):
    from diffusers import DPMSolverMultistepScheduler

    one = student(*CASES[name])
    export_student(one, tmp_path)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    last = one.denoiser.process.timesteps - 1
    for steps in range(1, 17):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == (one.times(steps) * last).round().long().tolist(), steps


@pytest.mark.parametrize("name", ["vp-renoise-4", "flow-4"])
def test_with_a_generator_each_samples_do_not_depend_on_the_batch(tmp_path, name):
    from diffusers import DiffusionPipeline

    export_student(student(*CASES[name]), tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)

    def images(*seeds: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = [seed % 3 for seed in seeds]
        return pipe(len(seeds), class_labels=labels, generator=generators, output_type="raw").images

    assert torch.allclose(images(5, 6, 7)[[2, 0]], images(7, 5), atol=1e-5)
