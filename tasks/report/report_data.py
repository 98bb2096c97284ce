"""What a report is made of: figures, pictures, costs, training curves and lineage of one student, kept as two files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fewstep.util.errors import CorruptData, NotAvailable
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.storage.file_io import write_if_other

if TYPE_CHECKING:
    from tasks.registry.model_registry import Registry, Version
    from tasks.storage.workspace import Workspace

FIGURES, PICTURES = "report.json", "report.safetensors"
_POINTS = 240  # of a training curve: more than a plot shows


@dataclass
class Material:
    """One student's evaluation with all that a reader may ask about it.

    Attributes:
        label: a run, a registered version, or the name of the experiment.
        document: evaluation.json.
        cost: by stage, data/cost; empty where it was not measured here.
        curves: figure of training → [[images seen, value], …].
        stages: by stage: key, digest, settings, inputs, summary, versions, fingerprint, files, bytes.
        commit: of the code, where it is known.
        pictures: arrays of evaluation's report.safetensors.
    """

    label: str
    document: dict
    cost: dict = field(default_factory=dict)
    curves: dict[str, list] = field(default_factory=dict)
    stages: dict[str, dict] = field(default_factory=dict)
    commit: str | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def priced(self) -> dict:
        """The document with the costs beside it, as tasks.report.results_table reads it."""
        return {**self.document, "cost": self.cost}

    def store(self, folder: Path) -> None:
        """Writes both files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_if_other(folder / PICTURES, save(self.pictures))
        facts = {name: value for name, value in asdict(self).items() if name != "pictures"}
        write_if_other(folder / FIGURES, json.dumps(facts, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Material:
        """The inverse of `store`. Raises NotAvailable when there is nothing, CorruptData when it is damaged."""
        if not (folder / FIGURES).is_file():
            raise NotAvailable(f"{folder}: no report was kept here", hint="`fewstep run` makes one")
        try:
            return cls(**json.loads((folder / FIGURES).read_text()), pictures=load_file(folder / PICTURES))
        except (ValueError, TypeError, OSError, SafetensorError) as error:
            raise CorruptData(f"{folder}: damaged report ({error}); remove the folder") from error


def of_checkout(workspace: Workspace, label: str) -> Material:
    """Of what is published in a checkout. Raises NotAvailable when nothing was evaluated yet."""
    from tasks.storage import git

    folder = workspace.root / graph.stage("evaluate").output
    if not (folder / "evaluation.json").is_file():
        raise NotAvailable(f"{folder}: nothing was evaluated yet", hint="`fewstep run` trains and evaluates a student")
    made = {stage.name: manifests.load_quietly(workspace.root / stage.output) for stage in graph.STAGES if stage.in_dvc}
    stages = {name: described(asdict(one)) for name, one in made.items() if one is not None}
    costs = {}
    for name, entry in stages.items():
        path = workspace.data / "cost" / f"{name}.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        if found.get("key") in (None, entry["key"]):  # of another output otherwise
            costs[name] = found
    return Material(
        label=label, document=_json(folder / "evaluation.json"), cost=costs,
        curves=curves(workspace, stages.get("distill", {}).get("key")), stages=stages,
        commit=git.head(workspace.root)[0], pictures=_pictures(folder / PICTURES),
    )  # fmt: skip


def of_version(registry: Registry, version: Version, scratch: Path) -> Material:
    """Of a registered version, from the files kept with it. `scratch` is a folder for the download."""
    snapshot = registry.snapshot(version, scratch)
    paths = {stage.name: snapshot / "manifests" / f"{stage.name}.json" for stage in graph.STAGES}
    stages = {name: described(_json(path)) for name, path in paths.items() if path.is_file()}
    costs = {path.stem: _json(path) for path in sorted((snapshot / "cost").glob("*.json"))}
    return Material(
        label=version.name, document=_json(snapshot / "evaluation.json"), cost=costs,
        curves=curves(registry.workspace, stages.get("distill", {}).get("key")), stages=stages,
        commit=version.tags.get("fewstep.commit") or None, pictures=_pictures(snapshot / PICTURES),
    )  # fmt: skip


def described(manifest: dict) -> dict:
    """What the report tells of a stage's output, from its manifest."""
    kept = ("key", "digest", "settings", "seed", "inputs", "given", "summary", "versions", "fingerprint", "code")
    files = manifest["files"]
    return {**{name: manifest[name] for name in kept}, "files": len(files),
            "bytes": sum(file["bytes"] for file in files)}  # fmt: skip


def curves(workspace: Workspace, key: str | None) -> dict[str, list]:
    """The figures of the training that made the student with this key, from MLflow; none where nobody logged it."""
    if key is None:
        return {}
    from fewstep.util.errors import FewstepError
    from tasks.tracking.mlflow_client import Tracking

    try:
        return _curves(Tracking.of(workspace), key)
    except FewstepError:  # no server: the report goes without
        return {}


def _curves(tracking, key: str) -> dict[str, list]:
    from tasks.tracking.mlflow_client import all_pages  # loads mlflow

    experiments = [item.experiment_id for item in all_pages(tracking.client.search_experiments)]
    found: dict[str, dict[int, float]] = {}
    condition = f"tags.`fewstep.stage` = 'distill' and tags.`fewstep.key` = '{key}'"
    for run in all_pages(tracking.client.search_runs, experiments, condition) if experiments else []:
        for name in run.data.metrics:
            if name.startswith(("cost/", "progress/")) or "/" not in name and name != "learning_rate":
                continue
            points = found.setdefault(name, {})
            for metric in tracking.client.get_metric_history(run.info.run_id, name):
                if np.isfinite(metric.value):
                    points[metric.step] = metric.value
    return {name: _thinned(sorted(points.items())) for name, points in sorted(found.items()) if len(points) > 1}


def _thinned(points: list[tuple[int, float]]) -> list[list[float]]:
    """At most `_POINTS` of them, each the mean of a contiguous part."""
    parts = np.array_split(np.array(points, dtype=np.float64), min(len(points), _POINTS))
    return [[float(f"{part[:, 0].max():.9g}"), float(f"{part[:, 1].mean():.6g}")] for part in parts]


def _pictures(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{path}: damaged ({error}); `fewstep verify` names what else is") from error


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptData(f"{path}: not readable as JSON ({error})") from None
