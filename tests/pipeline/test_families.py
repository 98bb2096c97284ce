"""Teachers of the kinds that people have, from their folder to a registered, promoted student, by `fewstep run`.

One family in `make test`, the others in `make test-slow`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.diffusion.randomness import generator
from fewstep.families.codec import Codec
from fewstep.families.family import Family, table_of
from fewstep.families.recording import first_step
from fewstep.families.trial import call_arguments
from fewstep.students.export import load_student
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from tests.fewstep.families.pipelines import KINDS
from tests.project import TINY, Project

CAPTIONS = ["a red apple", "two blue cars on a road", "a small green tree", "person running"]
TEXTS = ["a red apple", "person running"]
SIZES = {"sd": 32, "sdxl": 32, "sd3": 32, "flux": 32, "sana": 32, "pixart": 16}
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in SIZES if kind != "sd"]
TRAINED = {"teacher.images", "teacher.batch", "teacher.channels"}
NAMED = {"height", "width", "num_frames", "max_sequence_length"}

# what a user of the exported folder writes: nothing of this project, nothing but the prompt
PLAIN = """
import sys, numpy, torch
from diffusers import DiffusionPipeline
folder, out = sys.argv[1:]
code = bool(__import__("pathlib").Path(folder, "pipeline.py").is_file())
pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=code)
drawn = pipe(["a red apple", "person running"], generator=[torch.Generator().manual_seed(k) for k in (5, 6)],
             output_type="np", return_dict=False)[0]
numpy.save(out, numpy.asarray(drawn))
assert "fewstep" not in sys.modules
"""
REGISTERED = """
import sys, mlflow, numpy, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
try:
    model.predict(pandas.DataFrame({"seed": [1]}))
except Exception as error:
    assert "prompt" in str(error), error
else:
    raise SystemExit("a row without a prompt was accepted")
asked = pandas.DataFrame({"prompt": ["a red apple", "person running"], "seed": [5, 6]})
numpy.save(sys.argv[3], model.predict(asked))
"""


def captioned(folder: Path, size: int, count: int = 160) -> Path:
    """A table of random images, with captions in turn."""
    folder.mkdir()
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator(0, "images"), dtype=torch.uint8)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "caption"])
        for number, image in enumerate(pixels):
            Image.fromarray(image.numpy()).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", CAPTIONS[number % len(CAPTIONS)]])
    return folder / "table.csv"


def settings(kind: str, teacher: Path, known: dict[str, object] | None = None) -> dict[str, object]:
    """Settings of a run of seconds with this teacher; known: arguments of its call, of a kind that is none of KINDS."""
    known = KINDS[kind].arguments if known is None else known
    more = {name: value for name, value in known.items() if name not in NAMED}
    return {
        **{name: value for name, value in TINY.items() if name not in TRAINED},
        "name": kind, "teacher.source": teacher, "teacher.check.max_distance_ratio": 1e9, "distill.images": 96,
        "distill.batch": 16, "trajectories.count": 32, "evaluate.samples": 32, "evaluate.batch": 16,
        "evaluate.classifier.images": 256, "evaluate.classifier.features": 4, "encode.max_truncated_share": 1.0,
        **{f"encode.{name}": value for name, value in known.items() if name in NAMED},
        "encode.arguments": json.dumps(more),
    }  # fmt: skip


@pytest.fixture(scope="module", params=["sd", *SLOW])
def finished(request, tmp_path_factory) -> tuple[str, Project, dict]:
    """A project whose run with a tiny pipeline of this family has ended, and what it printed."""
    root = tmp_path_factory.mktemp(request.param)
    KINDS[request.param].save(root / "teacher")
    project = Project(root / "project")
    project.check("data", "add", str(captioned(root / "images", SIZES[request.param])))
    chosen = settings(request.param, root / "teacher")
    sets = [word for name, value in {**chosen, "data.source": "raw"}.items() for word in ("--set", f"{name}={value}")]
    project.check("run", *sets)
    registered = json.loads((project.folder / "data/registration/registration.json").read_bytes())
    return request.param, project, registered


def own_samples(project: Project) -> torch.Tensor:
    """What our own loader draws of the exported student for the prompts and seeds of PLAIN, in [0, 1]."""
    folder = project.folder / "data" / "student"
    student, pipe = load_student(folder), load_pipeline(inspect_teacher(folder))
    student.denoiser.take(table_of(pipe, student.denoiser.family, TEXTS))
    noise = first_states(pipe, student.denoiser.family, [{"prompt": [text]} for text in TEXTS])
    states = student.sample(noise, condition=torch.arange(2))
    return Codec(pipe, student.denoiser.family).decode(states) / 2 + 0.5


def first_states(pipe, family: Family, asked: list[dict]) -> torch.Tensor:
    """(N, *state) N(0, I), as the pipeline draws it from the seeds 5, 6, … for these arguments of its call: some draw
    before they pack, and some something else first. Of a family whose first tokens stand still they are the packed
    ones, of which the pipeline's scheduler steps the others."""
    given = [call_arguments(pipe, {**family.arguments, **one}, guided=False) for one in asked]
    steps = [first_step(pipe, one, 1, seeds=[seed]) for seed, one in enumerate(given, 5)]
    return torch.cat([step.state if family.call.still is None else step.calls[0][family.call.state] for step in steps])


def test_the_student_is_registered_and_promoted(finished):
    kind, project, registered = finished
    assert registered["version"] == 1 and f"fewstep-{kind}" == registered["model"]
    assert "champion" in project.run("lineage", kind).stdout


def test_the_folder_samples_in_plain_diffusers_what_the_student_does(finished, tmp_path):
    _, project, _ = finished
    folder = project.folder / "data" / "student"
    done = subprocess.run([sys.executable, "-P", "-c", PLAIN, str(folder), "drawn.npy"], capture_output=True, text=True,
                          cwd=tmp_path, env=project.environment(PYTHONPATH=""))  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = torch.from_numpy(np.load(tmp_path / "drawn.npy")).movedim(-1, -3)
    assert torch.allclose(drawn, own_samples(project), atol=1e-4)


def test_mlflow_loads_it_and_samples_by_prompt(finished, tmp_path):
    _, project, registered = finished
    uri = f"sqlite:///{project.folder / '.fewstep' / 'mlflow.db'}"
    model = f"models:/{registered['model']}/{registered['version']}"
    done = subprocess.run([sys.executable, "-P", "-c", REGISTERED, uri, model, "drawn.npy"], capture_output=True,
                          text=True, cwd=tmp_path, env=project.environment(PYTHONPATH=""))  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = np.load(tmp_path / "drawn.npy")
    assert drawn.shape[0] == 2 and np.isfinite(drawn).all()
    assert np.allclose(np.moveaxis(drawn, -1, -3), own_samples(project).numpy(), atol=1e-4)


def test_sample_takes_prompts_and_asks_for_them(finished, tmp_path):
    kind, project, _ = finished
    out = tmp_path / "apples.png"
    project.check("sample", kind, "--prompt", "a red apple", "--n", "4", "--out", str(out))
    assert Image.open(out).size[0] > 0
    missing = project.run("sample", kind, "--out", str(out))
    assert missing.returncode == 2 and '--prompt "a red apple"' in missing.stderr


def test_sample_loads_neither_orchestration_nor_versioning(finished, tmp_path):
    kind, project, _ = finished
    code = ("import sys; from flows.cli import app; "
            "app(['sample', sys.argv[1], '--prompt', 'a red apple', '--n', '1', '--out', sys.argv[2]], "
            "standalone_mode=False); "
            "print([name for name in ('prefect', 'dvc', 'ray', 'torchvision', 'matplotlib') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, kind, str(tmp_path / "one.png")], cwd=project.folder,
                          env=project.environment(), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and (tmp_path / "one.png").is_file()


def test_lineage_reaches_encoders_and_prompts(finished):
    kind, project, _ = finished
    told = project.run("lineage", kind)
    assert all(word in told.stdout for word in ("encode", "encoders", "given teacher", "trajectories")), told.stdout


# what a user of a class-conditional folder writes
OF_CLASSES = """
import sys, numpy, torch
from diffusers import DiffusionPipeline
folder, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
drawn = pipe([1, 2], generator=[torch.Generator().manual_seed(k) for k in (5, 6)], output_type="np").images
numpy.save(out, drawn)
assert "fewstep" not in sys.modules
"""


@pytest.mark.slow
def test_a_teacher_of_classes_on_latents_becomes_a_promoted_student(tmp_path):
    KINDS["dit"].save(tmp_path / "teacher")
    pixels = torch.randint(0, 256, (160, 16, 16, 3), generator=generator(0, "images"), dtype=torch.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "images" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(path)
    project = Project(tmp_path / "project")
    project.check("data", "add", str(tmp_path / "images"))
    chosen = {**settings("dit", tmp_path / "teacher"), "data.source": "raw"}
    project.check("run", *[word for name, value in chosen.items() for word in ("--set", f"{name}={value}")])
    registered = json.loads((project.folder / "data/registration/registration.json").read_bytes())
    assert registered["version"] == 1 and registered["promoted"]
    project.check("sample", "dit", "--class", "1", "--n", "2", "--out", str(tmp_path / "ones.png"))
    folder = project.folder / "data" / "student"
    done = subprocess.run([sys.executable, "-P", "-c", OF_CLASSES, str(folder), "drawn.npy"], capture_output=True,
                          text=True, cwd=tmp_path, env=project.environment(PYTHONPATH=""))  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    student, pipe = load_student(folder), load_pipeline(inspect_teacher(folder))
    noise = torch.stack([torch.randn(student.denoiser.sample_shape, generator=torch.Generator().manual_seed(seed))
                         for seed in (5, 6)])  # fmt: skip
    own = Codec(pipe, student.denoiser.family).decode(student.sample(noise, condition=torch.tensor([1, 2]))) / 2 + 0.5
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "drawn.npy")).movedim(-1, -3), own, atol=1e-4)
