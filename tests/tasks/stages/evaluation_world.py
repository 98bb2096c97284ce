"""The stages from images to evaluation, driven as the runner drives them, on a tiny untrained teacher."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks.unet_mlp import new_unet
from fewstep.students.export import export_student
from fewstep.students.student import StudentSettings, make_student
from fewstep.teachers import load_teacher, save_teacher
from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.data.reference_folder import write_choice
from tasks.engine import graph, manifest
from tasks.engine.events import Observer
from tasks.engine.runner import run_units
from tasks.stages.base import Context
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace

EVALUATE = {"samples": 150, "batch": 64, "steps": [1, 2], "baseline_steps": [1, 2, 4], "grid": 4,
            "solvers": ["ddim", "dpmsolver++", "heun"], "classifier": {"images": 12_800}}  # fmt: skip


@dataclass
class Listener(Observer):
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)

    def stage_warned(self, stage, text):
        self.warnings.append(text)

    def stage_noted(self, stage, text):
        self.notes.append(text)

    def stage_progress(self, stage, done, total, unit, metrics, step):
        self.progress.append((done, total))


class World:
    """A folder with data/… like a checkout's, in which single stages are run."""

    def __init__(self, root: Path, evaluate: dict | None = None, data: dict | None = None, images: Path | None = None,
                 teacher: Path | None = None):  # fmt: skip
        self.root, self.outside = root, {"images": images} if images else {}
        if teacher is not None:
            self.outside |= {"teacher": teacher, "encoders": teacher}
        chosen = {"evaluate": {**EVALUATE, **(evaluate or {})}, "data": data or {}}
        self.settings = parse(Settings, chosen | ({"teacher": {"source": str(teacher)}} if teacher else {}), "test")
        self.listener = Listener()

    def folder(self, stage: str) -> Path:
        return self.root / graph.stage(stage).output

    def context(self, name: str, work: str | None = None) -> Context:
        stage = graph.stage(name)
        if "encode" in stage.inputs and not self.folder("encode").exists():
            self.run("encode")  # nothing, for a teacher of pixels
        if "reference" in stage.inputs and not self.folder("reference").exists():
            self._compare_with_images()
        inputs = {one: self.folder(one) for one in stage.inputs}
        made = Context(
            stage=name, key="0" * 64, settings=stage.resolve(self.settings), seed=self.settings.seed, inputs=inputs,
            manifests={one: manifest.load(path) for one, path in inputs.items()}, outside=self.outside,
            work=self.root / "work" / (work or name), workspace=Workspace(self.root), observer=self.listener,
        )  # fmt: skip
        for path in (made.out, made.scratch):
            path.mkdir(parents=True, exist_ok=True)
        return made

    def _compare_with_images(self) -> None:
        """The reference stage's output where there are images, without the teacher that it asks first."""
        made = self.root / "made" / "reference"
        made.mkdir(parents=True)
        write_choice(made, drawn=False)
        self.publish("reference", made)

    def run(self, name: str, workers: int = 1, work: str | None = None) -> dict:
        """Runs what is left of a stage, publishes it and returns its summary."""
        stage, context = graph.stage(name), self.context(name, work)
        context.workers = workers
        stage.check(context)
        summary = run_units(stage, context, measure=False)
        self.publish(name, context.out, context.settings.model_dump(mode="json"), summary)
        return summary

    def publish(self, name: str, made: Path, settings: dict | None = None, summary: dict | None = None) -> None:
        target = self.folder(name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
        files = manifest.scan(target, StatTable(self.root / "stat.sqlite"))
        manifest.write(target, manifest.Manifest(
            stage=name, key="0" * 64, digest=manifest.tree_digest(files), files=files, settings=settings or {}, seed=0,
            inputs={}, given={}, code="", versions={}, fingerprint=(), summary=summary or {}))  # fmt: skip

    def add_models(self, num_classes: int = 10, channels: int = 1, broken: bool = False) -> None:
        """An untrained teacher of 8 x 8 images, and a student that is its copy (with NaN in it, if broken)."""
        network = new_unet(8, channels, num_classes, (8, 16), 1, generator=torch.Generator().manual_seed(1))
        level = torch.linspace(0, 1, 101, dtype=torch.float64)[1:]
        process = VariancePreserving(tuple((torch.cos(level * 1.55) ** 2).tolist()))
        null = num_classes if num_classes else None
        teacher = Denoiser(network, process, "v_prediction", (channels, 8, 8), num_classes, null)
        for name in ("teacher", "distill"):
            made = self.root / "made" / name
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
            if name == "teacher":
                save_teacher(teacher, made)
            else:
                student = make_student(load_teacher(self.folder("teacher")), StudentSettings())
                if broken:
                    next(student.parameters()).data.fill_(float("nan"))
                export_student(student, made)
            self.publish(name, made)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, its manifest left out."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != manifest.NAME}  # fmt: skip
