"""Samples of several sizes of teachers that are given images too: from a table of images of several shapes, with masks
or controls, to a student that makes all sizes. In `make test` test_sizes.py and test_image_teachers.py have a kind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.families.encoded_set import EncodedSet
from tests.fewstep.families.image_pipelines import SEEING, picture
from tests.pipeline.alone import alone
from tests.pipeline.own_samples import Own
from tests.pipeline.test_sizes import PIXELS, SHAPES, SIZES
from tests.pipeline.tiny_runs import CAPTIONS, TEXTS, Finished, sets, settings
from tests.project import Project

RECIPES = {"inpainting": "dmd2", "controlled_tokens": "dmd2", "upscaler": "kd", "editing": "tdm"}
KIND = [pytest.param(kind, marks=pytest.mark.slow) for kind in RECIPES]
COLUMN = {"inpainting": "mask", "controlled_tokens": "control"}


def pictures(folder: Path, column: str | None, count: int = 240) -> Path:
    """A table of images of three shapes, with captions in turn, and where a column is named with an image there of
    another shape: a mask is white in its right half."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "caption", *([column] if column else [])])
        for number in range(count):
            width, height = SHAPES[number % 4]
            Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            beside = numbers.integers(0, 256, (64, 64), dtype=np.uint8)
            if column == "mask":
                beside[:], beside[:, 32:] = 0, 255
            if column:
                Image.fromarray(beside).save(folder / f"beside-{number}.png")
            rows.writerow([f"{number}.png", CAPTIONS[number // 4 % 4], *([f"beside-{number}.png"] if column else [])])
    return folder / "table.csv"


@pytest.fixture(scope="module", params=KIND)
def finished(request, tmp_path_factory) -> tuple[str, Project]:
    """A project whose run with a tiny pipeline of this kind and images of three shapes has ended."""
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    SEEING[kind].save(root / "teacher")
    project = Project(root / "project")
    project.check("data", "add", str(pictures(root / "images", COLUMN.get(kind))))
    own = {"encode.height": "null", "encode.width": "null", "data.size": "null"}
    chosen = settings(kind, root / "teacher", SEEING[kind].arguments) | own | {
        "data.source": "raw", "data.sizes": json.dumps(SIZES), "data.conditions": "image", "distill.images": 640,
        "distill.recipe": RECIPES[kind], "trajectories.count": 96,
    }  # fmt: skip
    project.check("run", *sets(chosen))
    return kind, project


def test_every_condition_has_an_image_of_its_samples_size(finished):
    kind, project = finished
    encoded = EncodedSet(project.folder / "data" / "encoded")
    sizes, table = torch.tensor(encoded.description.sizes), encoded.table()
    assert encoded.family.pixels == PIXELS and sizes.bincount().tolist() == [120, 60, 60]
    name = "controlnet.controlnet_cond" if kind == "controlled_tokens" else "joined"
    for number in range(3):
        rows = (sizes == number).nonzero()[:, 0]
        found, without = table.read(rows)[name], table.read(table.nulls[rows])[name]
        assert found.shape[1:] == encoded.family.at(number).fields[name].shape
        assert len({row.numpy().tobytes() for row in found}) == len(rows)
        if encoded.family.guidance is not None and kind != "editing":   # whose null has no image
            assert torch.equal(found, without)
        if kind == "inpainting":    # the first of the joined channels is the mask, half the sample's sides
            height, width = (side // 2 for side in PIXELS[number])
            assert found.shape[-2:] == (height, width) and not found[:, 0, :, : width // 2 - 1].any()
            assert (found[:, 0, :, width // 2 + 1 :] == 1).all()
    with pytest.raises(ValueError, match="conditions of samples of sizes 0 and 2 have no common shape"):
        table.read(torch.tensor([int((sizes == 0).nonzero()[0]), int((sizes == 2).nonzero()[0])]))


# what a user of the exported folder writes, to have another size than the usual one
WIDE = """
import sys, inspect, numpy, torch
from PIL import Image
from diffusers import DiffusionPipeline
folder, out, *names = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
wide = {"height": 32, "width": 48} if "height" in inspect.signature(type(pipe).__call__).parameters else {}
drawn = [pipe(prompt=[text], generator=[torch.Generator().manual_seed(5 + k)], output_type="np", return_dict=False,
              **wide, **{name: Image.open(f"{name}-{k}.png") for name in names})[0]
         for k, text in enumerate(["a red apple", "person running"])]
numpy.save(out, numpy.concatenate(drawn))
"""
REGISTERED = """
import sys, mlflow, numpy, pandas, pathlib
mlflow.set_tracking_uri(sys.argv[1])
model, names = mlflow.pyfunc.load_model(sys.argv[2]), sys.argv[4:]
asked = pandas.DataFrame({"prompt": ["a red apple", "person running"], "seed": [5, 6],
                          **{name: [pathlib.Path(f"{name}-{k}.png").read_bytes() for k in range(2)] for name in names}})
numpy.save(sys.argv[3], model.predict(asked, params={"size": "48x32"}))
"""


def test_another_size_is_sampled_alike_by_all_that_load_the_student(finished, tmp_path):
    kind, project = finished
    own = Own(project.folder / "data" / "student", size=1)
    images = {name: [picture(own.family.images.size, seed, "L" if "mask" in name else "RGB") for seed in (0, 1)]
              for name in own.family.images.names}  # fmt: skip
    for name, some in images.items():
        for number, image in enumerate(some):
            image.save(tmp_path / f"{name}-{number}.png")
    wanted = own.drawn({"prompt": TEXTS, **images}, [5, 6]).numpy()
    assert wanted.shape == (2, 32, 48, 3)
    run = Finished(kind, project)
    for code, words in ((WIDE, [run.student]), (REGISTERED, [run.tracking, f"models:/fewstep-{run.name}/1"])):
        alone(code, *words, "drawn.npy", *images, project=project, folder=tmp_path)
        assert np.allclose(np.load(tmp_path / "drawn.npy"), wanted, atol=1e-4)
    shown = ["--image", str(tmp_path / f"{next(iter(images))}-0.png")]
    shown += ["--mask", str(tmp_path / "mask_image-0.png")] if "mask_image" in images else []
    for out, size in (("usual.png", []), ("wide.png", ["--size", "48x32"])):
        project.check("sample", run.name, "--prompt", "a red apple", "--n", "1", *size, *shown, "--out",
                      str(tmp_path / out))  # fmt: skip
    (width, height), wider = (Image.open(tmp_path / out).size for out in ("usual.png", "wide.png"))
    assert wider[0] - wider[1] == 16 + width - height     # a sheet has margins, which a square's tells
