"""Samples of several sizes (aspect buckets), from images and prompts of several shapes to a student that makes all.

Whole runs are in `make test-slow`, what is refused in `make test`.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.data.images import load_split, sizes_of
from fewstep.data.sized import Sized
from fewstep.families.encoded_set import EncodedSet
from fewstep.students.export import load_student
from fewstep.trajectories.sized_sets import open_sets
from tests.fewstep.families.pipelines import KINDS
from tests.pipeline import tiny_runs
from tests.pipeline.alone import alone
from tests.pipeline.own_samples import Own
from tests.pipeline.tiny_runs import CAPTIONS, TEXTS, Finished, settings
from tests.project import Project

SIZES = ["32x32", "48x32", "32x48"]     # width x height
PIXELS = [(32, 32), (32, 48), (48, 32)]
SHAPES = [(64, 64), (90, 60), (64, 64), (50, 80)]   # width and height of the files, in turn
KIND = [pytest.param(pair, id=pair[0], marks=pytest.mark.slow)
        for pair in (("sdxl", "dmd2"), ("flux", "lcm"), ("sd3", "instaflow"))]


def pictures(folder: Path, count: int = 240) -> Path:
    """A table of images of three shapes, with captions in turn."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "caption"])
        for number in range(count):
            width, height = SHAPES[number % 4]
            Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", CAPTIONS[number // 4 % len(CAPTIONS)]])
    return folder / "table.csv"


@pytest.fixture(scope="module", params=KIND)
def finished(request, tmp_path_factory) -> tuple[str, Project]:
    """A project whose run with a tiny pipeline of this family and images of three shapes has ended."""
    kind, recipe = request.param
    root = tmp_path_factory.mktemp(kind)
    KINDS[kind].save(root / "teacher")
    project = Project(root / "project")
    project.check("data", "add", str(pictures(root / "images")))
    project.check("run", *sets(kind, root / "teacher", recipe))
    return kind, project


def sets(kind: str, teacher: Path, recipe: str, **more: object) -> list[str]:
    """`--set` of a run of seconds; the sizes are the data's."""
    own = {"encode.height": "null", "encode.width": "null", "data.size": "null"}    # of the case before
    chosen = settings(kind, teacher) | own | {
        "data.source": "raw", "data.sizes": json.dumps(SIZES), "distill.recipe": recipe, "trajectories.count": 96,
        "distill.images": 640, **more,
    }  # fmt: skip
    return tiny_runs.sets(chosen)


def test_each_image_gets_the_size_nearest_to_its_shape(finished):
    _, project = finished
    shards = project.folder / "data" / "shards"
    assert sizes_of(shards) == PIXELS
    counts = [sum(len(load_split(shards, split, k)) for split in ("train", "fit", "test")) for k in range(3)]
    assert counts == [120, 60, 60]
    for number, pixels in enumerate(PIXELS):
        assert load_split(shards, "train", number).images([0]).shape == (1, 3, *pixels)


def test_states_and_prompts_of_every_size_are_encoded(finished):
    _, project = finished
    encoded = EncodedSet(project.folder / "data" / "encoded")
    sizes, states = np.array(encoded.description.sizes), encoded.sized_states("train")
    assert encoded.family.pixels == PIXELS and isinstance(states, Sized) and len(states.sets) == 3
    for number, own in enumerate(states.sets):
        assert own.shape == encoded.family.at(number).state and len(own) > 20
        assert set(sizes[own.labels.numpy()]) == {number}, "a state's prompt is asked for in the state's size"
    judged = encoded.prompt_table().splits
    assert all(set(sizes[list(rows)]) == {0} for rows in judged.values())


def test_the_teacher_draws_every_size_for_a_recipe_that_reads_its_outputs(finished):
    kind, project = finished
    if kind != "sd3":
        assert len(open_sets(project.folder / "data" / "trajectories")) == 0
        return
    sets, family = open_sets(project.folder / "data" / "trajectories").sets, load_student(
        project.folder / "data" / "student").denoiser.family  # fmt: skip
    assert [one.shape for one in sets] == [family.at(k).state for k in range(3)] and sum(map(len, sets)) == 96


# what a user of the exported folder writes, to have another size than the usual one
WIDE = """
import sys, numpy, torch
from diffusers import DiffusionPipeline
folder, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
drawn = pipe(["a red apple", "person running"], height=32, width=48, output_type="np", return_dict=False,
             generator=[torch.Generator().manual_seed(k) for k in (5, 6)])[0]
numpy.save(out, numpy.asarray(drawn))
"""


def test_plain_diffusers_samples_another_size_as_the_student_does(finished, tmp_path):
    _, project = finished
    folder = project.folder / "data" / "student"
    alone(WIDE, folder, "drawn.npy", project=project, folder=tmp_path)
    drawn, own = np.load(tmp_path / "drawn.npy"), Own(folder, size=1).drawn({"prompt": TEXTS}, [5, 6]).numpy()
    assert drawn.shape == own.shape == (2, 32, 48, 3) and np.allclose(drawn, own, atol=1e-4)


def test_sample_and_mlflow_draw_the_size_that_is_asked_for(finished, tmp_path):
    kind, project = finished
    out, usual = tmp_path / "tall.png", tmp_path / "usual.png"
    for file, size in ((out, ["--size", "32x48"]), (usual, [])):
        project.check("sample", kind, "--prompt", "a red apple", "--n", "1", *size, "--out", str(file))
    (width, height), taller = Image.open(usual).size, Image.open(out).size
    assert taller[1] - taller[0] == 16 + height - width     # a sheet has margins, which a square's tells
    refused = project.run("sample", kind, "--prompt", "a red apple", "--size", "64x64", "--out", str(out))
    assert refused.returncode == 2 and "trained for 32x32, 48x32, 32x48" in " ".join(refused.stderr.split())
    code = ("import mlflow, pandas; mlflow.set_tracking_uri(sys.argv[1]); "
            "model = mlflow.pyfunc.load_model(sys.argv[2]); asked = pandas.DataFrame({'prompt': ['a red apple']}); "
            "print(model.predict(asked, params={'size': '48x32'}).shape, model.predict(asked).shape)")
    told = alone(code, Finished(kind, project).tracking, f"models:/fewstep-{kind}/1", project=project, folder=tmp_path)
    assert told.split("\n")[-2] == "(1, 32, 48, 3) (1, 32, 32, 3)"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> tuple[Project, Path]:
    """A project with images of three shapes in which nothing has run, and a teacher of texts."""
    root = tmp_path_factory.mktemp("refused")
    KINDS["sd"].save(root / "teacher")
    project = Project(root / "project")
    project.check("data", "add", str(pictures(root / "images", 40)))
    return project, root / "teacher"


@pytest.mark.parametrize(("more", "said"), [
    ({"data.size": 32}, "give size, or sizes in its place"),
    ({"data.sizes": '["32x32", "32"]'}, "data.sizes"),
    ({"data.sizes": '["32x32", "32x32"]'}, "one of them is there twice"),
    ({"teacher.source": "train"}, "data.sizes goes with a given pipeline"),
    ({"distill.recipe": "pi-flow"}, "made for samples of one size"),
    ({"encode.height": 64, "encode.width": 64}, "not those of the first of data.sizes"),
    ({"data.sizes": '["32x32", "36x32"]'}, "36"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_any_state_is_made(untouched, more, said):
    project, teacher = untouched
    done = project.run("run", *sets("sd", teacher, "lcm", **more))
    assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr
    assert not (project.folder / "data" / "encoded" / "encoded.json").exists()


def test_a_prompt_that_asks_for_an_unknown_size_is_named(untouched, tmp_path):
    project, teacher = untouched
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,size\n" + "".join(f"a red apple {k},32x32\n" for k in range(40)) + "a wide one,96x32\n")
    done = project.run("run", *sets("sd", teacher, "swiftbrush", **{"data.source": "digits", "data.prompts": prompts}))
    assert done.returncode == 2, done.stderr
    assert "'a wide one' has the size 96x32; samples of this set have 32x32, 48x32, 32x48" in " ".join(
        done.stderr.split())
