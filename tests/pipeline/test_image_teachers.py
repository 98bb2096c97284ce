"""Teachers that are given images beside a text, from the folder to a student that is promoted, loads in plain diffusers
and in MLflow and samples what `Student.sample` does: inpainting and an upscaler; an image's first frame of a video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.images import load_prompts, load_split
from fewstep.families.encoded_set import EncodedSet
from tests.fewstep.families.image_pipelines import SEEING, picture
from tests.pipeline.alone import alone
from tests.pipeline.own_samples import Own
from tests.pipeline.tiny_runs import TEXTS, Finished, captioned, sets, settings
from tests.project import Project

RECIPES = {"inpainting": "dmd2", "upscaler": "kd", "first_frame": "tdm", "controlled": "lcm",
           "controlled_tokens": "dmd2", "first_tokens": "tdm"}  # fmt: skip
OF_VIDEOS = ("first_frame", "first_tokens")
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in RECIPES]

# what a user of the exported folder writes: nothing of this project
PLAIN = """
import sys, numpy, torch
from PIL import Image
from diffusers import DiffusionPipeline
folder, out, *names = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
drawn = [pipe(prompt=[text], generator=[torch.Generator().manual_seed(5 + k)], output_type="np", return_dict=False,
              **{name: Image.open(f"{name}-{k}.png") for name in names})[0]
         for k, text in enumerate(["a red apple", "person running"])]   # some take one image alone
numpy.save(out, numpy.concatenate(drawn))
"""
REGISTERED = """
import sys, mlflow, numpy, pandas, pathlib
mlflow.set_tracking_uri(sys.argv[1])
model, names = mlflow.pyfunc.load_model(sys.argv[2]), sys.argv[4:]
asked = pandas.DataFrame({"prompt": ["a red apple", "person running"], "seed": [5, 6],
                          **{name: [pathlib.Path(f"{name}-{k}.png").read_bytes() for k in range(2)] for name in names}})
numpy.save(sys.argv[3], model.predict(asked))
try:
    model.predict(asked.drop(columns=[names[-1]]))
except Exception as error:
    assert names[-1] in str(error), error
else:
    raise SystemExit("a row without an image was accepted")
"""


@pytest.fixture(scope="module", params=SLOW)
def finished(request, tmp_path_factory) -> Finished:
    root = tmp_path_factory.mktemp(request.param)
    SEEING[request.param].save(root / "teacher")
    project = Project(root / "project")
    project.check("data", "add", str(captioned(root / "images", 32)))
    chosen = settings(request.param, root / "teacher", SEEING[request.param].arguments)
    chosen |= {"data.source": "raw", "distill.recipe": RECIPES[request.param]}
    refused = project.run("run", *sets(chosen))
    assert refused.returncode == 2 and "data.conditions=image" in refused.stderr, refused.stderr
    assert not (project.folder / "data" / "shards").exists()
    project.check("run", *sets({**chosen, "data.conditions": "image"}))
    return Finished(request.param, project)


def own_samples(finished: Finished, images: dict[str, list[Image.Image]]) -> np.ndarray:
    """What our own loader draws of the exported student for TEXTS, these images and the seeds 5 and 6, in [0, 1]."""
    return Own(finished.student).drawn({"prompt": TEXTS, **images}, [5, 6]).numpy()


def pictures(project: Project, folder: Path) -> dict[str, list[Image.Image]]:
    """Two images by argument, which lie in the folder too."""
    wanted = EncodedSet(project.folder / "data" / "encoded").family.images
    found = {name: [picture(wanted.size, seed, "L" if "mask" in name else "RGB") for seed in (0, 1)]
             for name in wanted.names}  # fmt: skip
    for name, images in found.items():
        for number, image in enumerate(images):
            image.save(folder / f"{name}-{number}.png")
    return found


def test_every_image_is_a_condition_of_its_own(finished):
    kind, project, registered = finished.kind, finished.project, finished.registered
    assert registered["version"] == 1 and registered["promoted"]
    shards, encoded = project.folder / "data" / "shards", EncodedSet(project.folder / "data" / "encoded")
    if kind in OF_VIDEOS:
        assert encoded.description.samples == {}    # what the teacher makes of them is drawn
        document = json.loads((project.folder / "data/evaluation/evaluation.json").read_bytes())
        assert document["medium"] == "videos" and document["drawn"]
    table, images = load_prompts(shards), {split: load_split(shards, split) for split in ("train", "fit", "test")}
    assert len(table) == len(encoded.prompts) == sum(len(some) for some in images.values()) == 160
    assert sorted(row for some in images.values() for row in some.prompts.tolist()) == list(range(160))
    own = next(name for name in ("controlnet.controlnet_cond", "still", "joined") if name in encoded.family.fields)
    rows = encoded.table().read(torch.arange(160))[own]
    assert len({row.numpy().tobytes() for row in rows}) == 160
    for split, some in images.items() if kind not in OF_VIDEOS else ():
        assert encoded.states(split).labels.tolist() == some.prompts.tolist()
    if kind == "upscaler":      # what it begins from is the image itself, smaller
        image, row = images["test"].images([0])[0], int(images["test"].prompts[0])
        small = torch.nn.functional.avg_pool2d(image, 2)
        near, far = (float((rows[k] - small).abs().mean()) for k in (row, (row + 1) % 160))
        assert near < 0.8 * far, (near, far)


def test_the_folder_samples_in_plain_diffusers_what_the_student_does(finished, tmp_path):
    images = pictures(finished.project, tmp_path)
    alone(PLAIN, finished.student, "drawn.npy", *images, project=finished.project, folder=tmp_path)
    assert np.allclose(np.load(tmp_path / "drawn.npy"), own_samples(finished, images), atol=1e-4)


def test_mlflow_loads_it_and_samples_by_prompt_and_image(finished, tmp_path):
    images = pictures(finished.project, tmp_path)
    registered = finished.registered
    model = f"models:/{registered['model']}/{registered['version']}"
    alone(REGISTERED, finished.tracking, model, "drawn.npy", *images, project=finished.project, folder=tmp_path)
    assert np.allclose(np.load(tmp_path / "drawn.npy"), own_samples(finished, images), atol=1e-4)


def test_sample_takes_images_and_asks_for_them(finished, tmp_path):
    project = finished.project
    images, out = pictures(project, tmp_path), tmp_path / "out.png"
    words = ["--prompt", "a red apple", "--out", str(out), "--n", "2"]
    first = next(iter(images))
    shown = [word for number in (0, 1) for word in ("--image", str(tmp_path / f"{first}-{number}.png"))]
    masks = ["--mask", str(tmp_path / "mask_image-0.png")] if len(images) > 1 else []
    project.check("sample", finished.name, *words, *shown, *masks)
    assert Image.open(out).size[0] > 0
    missing = project.run("sample", finished.name, *words, *masks)
    assert missing.returncode == 2 and "--image FILE" in missing.stderr, missing.stderr
    (tmp_path / "broken.png").write_text("no picture")
    broken = project.run("sample", finished.name, *words, "--image", str(tmp_path / "broken.png"), *masks)
    assert broken.returncode == 2 and "broken.png" in broken.stderr, broken.stderr
