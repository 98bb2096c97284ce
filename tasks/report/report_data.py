"""What a report is made of: figures, pictures, costs, training curves and lineage of one student, kept as two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fewstep.util.config import Strict
from fewstep.util.errors import CorruptData, FewstepError, NotAvailable
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.evaluation.costs import StageCost, cost_of, read_costs
from tasks.evaluation.documents import EVALUATION, FORMAT, Evaluation, parsed, read
from tasks.report.results_table import Result
from tasks.storage.code_state import CodeOrigin, sources
from tasks.storage.file_io import write_if_other

if TYPE_CHECKING:
    from tasks.registry.model_registry import Registry, Version
    from tasks.storage.workspace import Workspace
    from tasks.tracking.mlflow_client import Tracking

FIGURES, PICTURES = "report.json", "report.safetensors"
_POINTS = 240  # of a training curve: more than a plot shows


class StageFacts(Strict):
    """What the report tells of a stage's output, from its manifest. `files`: how many there are, of `bytes` in all."""

    model_config = ConfigDict(extra="ignore")

    key: str
    digest: str
    settings: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    given: dict[str, str]
    summary: dict[str, Any]
    versions: dict[str, Any]
    fingerprint: list[dict[str, Any]]
    files: int
    bytes: int

    @classmethod
    def of(cls, manifest: dict) -> Self:
        """`manifest`: the content of a manifest.json."""
        files = manifest["files"]
        return cls(**{**manifest, "files": len(files), "bytes": sum(file["bytes"] for file in files)})


class TrainedRound(Strict):
    """One round of distillation: how many images it took, and how many turns each role had."""

    model_config = ConfigDict(extra="ignore")

    round: str
    images: int
    turns: dict[str, int] = {}


class Material(Strict):
    """One student's evaluation with all that a reader may ask about it.

    Attributes:
        label: a run, a registered version, or the name of the experiment.
        cost: by stage; what was not measured here is left out.
        curves: by figure of training, points (images seen, value).
        stages: by stage.
        commit: of the workspace, where it is known; `modified`: whether its files differed from it.
        code: of code that lies apart; None: the workspace's commit is that of the code too.
        pictures: arrays of evaluation's report.safetensors, kept in a file of their own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    format: Literal[1] = FORMAT
    label: str
    document: Evaluation
    cost: dict[str, StageCost] = {}
    curves: dict[str, list[list[float]]] = {}
    stages: dict[str, StageFacts] = {}
    commit: str | None = None
    modified: bool = False
    code: CodeOrigin | None = None
    pictures: dict[str, np.ndarray] = Field(default={}, exclude=True)

    @property
    def result(self) -> Result:
        """Figures and costs, as tasks.report.results_table reads them."""
        return Result(self.document, self.cost)

    @property
    def rounds(self) -> list[TrainedRound]:
        """The rounds that the student went through, from the summary of distill."""
        summary = self.stages["distill"].summary if "distill" in self.stages else {}
        return [TrainedRound(**trained) for trained in summary.get("rounds", [])]

    def cost_of(self, stage: str) -> StageCost:
        """The costs of a stage; empty where they were not measured."""
        return cost_of(self.cost, stage)

    def told_commit(self, characters: int = 40) -> str | None:
        """The commit with so many characters, and whether it is all; None where no commit is known. Of code that lies
        apart both are told."""
        if self.commit is None:
            return None
        told = self.commit[:characters] + (" with uncommitted changes" if self.modified else "")
        return told if self.code is None else f"{told} of the workspace, code {self.code.told(characters)}"

    def store(self, folder: Path) -> None:
        """Writes both files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_if_other(folder / PICTURES, save(self.pictures))
        facts = self.model_dump(mode="json", by_alias=True)
        for stage, cost in self.cost.items():  # as its file has it, without what was not measured
            facts["cost"][stage] = cost.model_dump(mode="json", exclude_unset=True)
        write_if_other(folder / FIGURES, json.dumps(facts, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `store`. Raises NotAvailable when there is nothing, CorruptData when it is damaged."""
        if not (folder / FIGURES).is_file():
            raise NotAvailable(f"{folder}: no report was kept here", hint="`fewstep run` makes one")
        try:
            content = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
            return parsed(cls, {**content, "pictures": load_file(folder / PICTURES)}, str(folder / FIGURES))
        except (ValueError, TypeError, OSError, SafetensorError) as error:
            raise CorruptData(f"{folder}: damaged report ({error}); remove the folder") from error


def of_checkout(workspace: Workspace, label: str) -> Material:
    """Of what is published in a checkout. Raises NotAvailable when nothing was evaluated yet."""
    folder = workspace.root / graph.stage("evaluate").output
    if not (folder / EVALUATION).is_file():
        raise NotAvailable(f"{folder}: nothing was evaluated yet", hint="`fewstep run` trains and evaluates a student")
    made = {stage.name: manifests.load_quietly(workspace.root / stage.output) for stage in graph.STAGES if stage.in_dvc}
    stages = {name: StageFacts.of(json.loads(one.to_json())) for name, one in made.items() if one is not None}
    costs, made_of = read_costs(workspace.data / "cost"), sources(workspace)
    return Material(
        label=label, document=read(Evaluation, folder / EVALUATION),
        cost={name: costs[name] for name, facts in stages.items()  # those of another output are left out
              if name in costs and costs[name].key in (None, facts.key)},
        curves=curves(workspace, stages.get("distill")), stages=stages, code=made_of.origin,
        commit=made_of.workspace.commit, modified=made_of.workspace.modified,
        pictures=_pictures(folder / PICTURES),
    )  # fmt: skip


def of_version(registry: Registry, version: Version, scratch: Path) -> Material:
    """Of a registered version, from the files kept with it. `scratch` is a folder for the download."""
    snapshot = registry.snapshot(version, scratch)
    paths = {stage.name: snapshot / "manifests" / f"{stage.name}.json" for stage in graph.STAGES}
    stages = {name: StageFacts.of(_json(path)) for name, path in paths.items() if path.is_file()}
    return Material(
        label=version.name, document=read(Evaluation, snapshot / EVALUATION), cost=read_costs(snapshot / "cost"),
        curves=curves(registry.workspace, stages.get("distill")), stages=stages,
        commit=version.provenance.commit or None, modified=version.provenance.modified, code=version.provenance.code,
        pictures=_pictures(snapshot / PICTURES),
    )  # fmt: skip


def curves(workspace: Workspace, distill: StageFacts | None) -> dict[str, list[list[float]]]:
    """The figures of the training that made this student, from MLflow; none where nobody logged it."""
    if distill is None:
        return {}
    from tasks.tracking.mlflow_client import Tracking  # loads MLflow

    try:
        return _curves(Tracking.of(workspace), distill.key)
    except FewstepError:  # no server: the report goes without
        return {}


def _curves(tracking: Tracking, key: str) -> dict[str, list[list[float]]]:
    from tasks.tracking.mlflow_client import all_pages  # loads MLflow

    experiments = [item.experiment_id for item in all_pages(tracking.client.search_experiments)]
    curves: dict[str, dict[int, float]] = {}
    condition = f"tags.`fewstep.stage` = 'distill' and tags.`fewstep.key` = '{key}'"
    for run in all_pages(tracking.client.search_runs, experiments, condition) if experiments else []:
        for name in run.data.metrics:
            if name.startswith(("cost/", "progress/")) or "/" not in name and name != "learning_rate":
                continue
            points = curves.setdefault(name, {})
            for metric in tracking.client.get_metric_history(run.info.run_id, name):
                if np.isfinite(metric.value):
                    points[metric.step] = metric.value
    return {name: _thinned(sorted(points.items())) for name, points in sorted(curves.items()) if len(points) > 1}


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
