"""A small world for the registry's tests: a workspace with outputs, a student that samples, MLflow on SQLite."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tasks.manifest import File, tree_digest
from tasks.registration import Registration
from tasks.registry import Registry

CLASSES, SHAPE = 3, (1, 8, 8)


def save_student(folder: Path, seed: int = 0) -> Path:
    """A tiny class-conditional student as a stock diffusers pipeline with fewstep.json."""
    import torch
    from diffusers import ConsistencyModelPipeline, DDIMScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
            norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"), num_class_embeds=CLASSES, add_attention=False,
        )  # fmt: skip
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing")
    ConsistencyModelPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
    info = {"sampler": {"kind": "ode", "steps": 1}, "num_classes": CLASSES, "sample_shape": SHAPE}
    (folder / "fewstep.json").write_text(json.dumps(info))
    return folder


@dataclass
class Place:
    """The part of a workspace that the registry asks for."""

    root: Path

    @property
    def shared(self) -> Path:
        return self.root / ".fewstep"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.shared / 'mlflow.db'}"


def digest(folder: Path) -> str:
    """The tree digest, written out again from its definition."""
    content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return tree_digest([File(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()])


def registration(place: Place, student: Path, evaluation="e" * 64, model="fewstep-toy", **tags) -> Registration:
    place.shared.mkdir(parents=True, exist_ok=True)
    (place.root / "params.yaml").write_text("name: toy\n")
    (place.root / "dvc.lock").write_text("schema: '2.0'\n")
    weights = digest(student)
    return Registration(
        registry=Registry(place), model=model, experiment="toy", weights=weights, evaluation=evaluation,
        student=student, snapshot={name: place.root / name for name in ("params.yaml", "dvc.lock")},
        tags={"weights": weights, "evaluation": evaluation, **tags}, metrics={"distance": 0.5},
    )  # fmt: skip
