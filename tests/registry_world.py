"""A small world for the registry's tests: a workspace with outputs, a student that samples, MLflow on SQLite."""

import functools
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tasks.engine.manifest import File, tree_digest
from tasks.registry.model_registry import Registry
from tasks.registry.register_model import Registration
from tasks.registry.version_tags import VersionTags
from tasks.tracking.mlflow_client import Tracking

CLASSES, SHAPE = 3, (1, 8, 8)
MODEL = "fewstep-toy"
GOOD = {"distance_ratio": 0.2, "recall": 0.6}


def save_student(folder: Path, kind: str = "ode") -> Path:
    """A tiny class-conditional student as the pipeline exports it; `renoise` comes with a pipeline.py of its own."""
    import torch

    from fewstep.diffusion.adapters import Timestep
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.diffusion.processes import VariancePreserving
    from fewstep.students.export import export_student
    from fewstep.students.sampler_settings import SamplerSettings
    from fewstep.students.student import Student
    from fewstep.teachers import new_unet

    chance = torch.Generator().manual_seed(0)
    unet = new_unet(8, 1, CLASSES, (16, 16), 1, True, chance)
    with torch.no_grad():  # a fresh network's last layer is zero: every class would look the same
        for parameter in unet.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
    denoiser = Denoiser(unet, VariancePreserving.cosine(), "v_prediction", SHAPE, CLASSES, CLASSES, Timestep(999))
    export_student(Student(denoiser, SamplerSettings(kind=kind, steps=2 if kind == "renoise" else 1)), folder)
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


@functools.lru_cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        Tracking(f"sqlite:///{path}", None, Path(folder)).client.search_experiments()
        return path.read_bytes()


def with_database(folder: Path) -> Path:
    """Puts MLflow's empty database into `folder`: migrations, which take a second, are run once for all tests."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").write_bytes(_empty_database())
    return folder


@functools.lru_cache
def _three_versions() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with_database(Path(folder) / ".fewstep")
        found = Registry(Place(Path(folder)))
        found.tracking.client.create_registered_model(MODEL)
        run = found.tracking.client.create_run(found.tracking.experiment("toy"))
        for number in range(1, 4):
            tags = {"fewstep.weights": str(number) * 64, "fewstep.results": json.dumps({"floors": GOOD})}
            found.tracking.client.create_model_version(MODEL, f"/tmp/{number}", run.info.run_id, tags=tags)
        return (Path(folder) / ".fewstep/mlflow.db").read_bytes()


def with_three_versions(root: Path) -> Registry:
    """A registry with three versions of MODEL, of other weights, whose bytes are nowhere."""
    (root / ".fewstep").mkdir()
    (root / ".fewstep/mlflow.db").write_bytes(_three_versions())
    return Registry(Place(root))


def digest(folder: Path) -> str:
    """The tree digest, written out again from its definition."""
    content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return tree_digest([File(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                        for name, data in content.items()])


def registration(place: Place, student: Path, evaluation="e" * 64, model="fewstep-toy", **tags) -> Registration:
    if place.mlflow_uri.startswith("sqlite") and not (place.shared / "mlflow.db").exists():
        with_database(place.shared)
    (place.root / "params.yaml").write_text("name: toy\n")
    (place.root / "dvc.lock").write_text("schema: '2.0'\n")
    weights = digest(student)
    return Registration(
        registry=Registry(place), model=model, experiment="toy", student=student,
        snapshot={name: place.root / name for name in ("params.yaml", "dvc.lock")},
        tags=VersionTags(weights=weights, evaluation=evaluation, **{"results": {"student": {"kid": 0.5}}, **tags}),
    )  # fmt: skip
