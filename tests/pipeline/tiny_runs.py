"""Runs of seconds with tiny teachers of the kinds that people have: their data, settings and end."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from fewstep.diffusion.randomness import generator
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
from tests.fewstep.families.pipelines import KINDS, PIXELS, Kind
from tests.project import TINY, Project

CAPTIONS = ["a red apple", "two blue cars on a road", "a small green tree", "person running"]
TEXTS = ["a red apple", "person running"]
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("apple", "car", "tree", "door")]
SIZES = {"sd": 32, "sdxl": 32, "sd3": 32, "flux": 32, "sana": 32, "pixart": 16}
"""Sides of the images of teachers of images with captions."""
MEDIA = {"wan": "videos", "ltx": "videos", "cogvideox": "videos", "stable_audio": "sound"}
"""What is no image, which teachers of prompts alone make."""
RECIPES = {**dict.fromkeys(MEDIA, "tdm"), "sd-v": "tdm", "dit": "tdm", "unet": "mmd-ddm"}
"""Of kinds whose student has more than the one step of kd; without data where there is none."""
_TRAINED = {"teacher.images", "teacher.batch", "teacher.channels"}
_NAMED = {"height", "width", "num_frames", "max_sequence_length"}


def kind_of(name: str) -> Kind:
    """The kind of this name, of all."""
    return (KINDS | PIXELS)[name]


def pixels(count: int, size: int) -> list[Image.Image]:
    """Square images of noise, the same at every call."""
    found = torch.randint(0, 256, (count, size, size, 3), generator=generator(0, "images"), dtype=torch.uint8)
    return [Image.fromarray(image.numpy()) for image in found]


def captioned(folder: Path, size: int, count: int = 160) -> Path:
    """A table of random images, with captions in turn."""
    folder.mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "caption"])
        for number, image in enumerate(pixels(count, size)):
            image.save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", CAPTIONS[number % len(CAPTIONS)]])
    return folder / "table.csv"


def classified(folder: Path, size: int, count: int = 160) -> Path:
    """Random images in a folder for each of three classes, in turn."""
    for number, image in enumerate(pixels(count, size)):
        path = folder / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def settings(kind: str, teacher: Path, known: dict[str, object] | None = None) -> dict[str, object]:
    """Settings of a run of seconds with this teacher; known: arguments of its call, of a kind that is none of ours."""
    known = kind_of(kind).arguments if known is None else known
    more = {name: value for name, value in known.items() if name not in _NAMED}
    return {
        **{name: value for name, value in TINY.items() if name not in _TRAINED},
        "name": kind.replace("_", "-"), "teacher.source": teacher, "teacher.check.max_distance_ratio": 1e9,
        "distill.images": 96, "distill.batch": 16, "trajectories.count": 32, "evaluate.samples": 32,
        "evaluate.batch": 16, "evaluate.classifier.images": 256, "evaluate.classifier.features": 4,
        "encode.max_truncated_share": 1.0,
        **{f"encode.{name}": value for name, value in known.items() if name in _NAMED},
        "encode.arguments": json.dumps(more),
    }  # fmt: skip


def sets(chosen: dict[str, object]) -> list[str]:
    """`--set` of these settings, as words."""
    return [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]


@dataclass(frozen=True)
class Finished:
    """A project whose run with a tiny teacher of this kind has ended."""

    kind: str
    project: Project

    @property
    def name(self) -> str:
        """Of the experiment; the registered model is `fewstep-<name>`."""
        return self.kind.replace("_", "-")

    @property
    def registered(self) -> dict:
        """What the stage that registers says of it."""
        return json.loads((self.project.folder / "data/registration/registration.json").read_bytes())

    @property
    def student(self) -> Path:
        """The folder of the exported student."""
        return self.project.folder / "data" / "student"

    @property
    def package(self) -> Path:
        """The registered model: the student's folder, whose bytes are verified, in `artifacts/pipeline`."""
        registry = Registry(Workspace(self.project.folder))
        return registry.pipeline(registry.resolve(f"{self.name}@champion")).parents[1]

    @property
    def tracking(self) -> str:
        """Where MLflow finds it."""
        return f"sqlite:///{self.project.folder / '.fewstep' / 'mlflow.db'}"


def finished_run(kind: str, root: Path) -> Finished:
    """A run in the folder `root`, from the teacher's folder and the data that its kind trains on."""
    kind_of(kind).save(root / "teacher")
    project = Project(root / "project")
    chosen = {**settings(kind, root / "teacher"), "distill.recipe": RECIPES.get(kind, "kd")}
    if kind in MEDIA:
        (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        chosen["data.prompts"] = root / "prompts.txt"
    else:
        textual = kind_of(kind).conditions == "prompt"
        made = captioned(root / "images", SIZES.get(kind, 32)) if textual else classified(root / "images", 16)
        project.check("data", "add", str(made))
        chosen["data.source"] = "raw"
    project.check("run", *sets(chosen))
    return Finished(kind, project)
