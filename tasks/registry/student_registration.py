"""A run's student becomes a version of the registered model, with everything it came from, and is perhaps promoted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.util.errors import FewstepError
from tasks.config import params_file
from tasks.config.schema import Register
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.manifest import File, Manifest
from tasks.engine.plan import plan
from tasks.evaluation.documents import Evaluation, Headline, read
from tasks.registry import aliases, register_model, webhooks
from tasks.registry.gate.promotion_gate import promote
from tasks.registry.model_registry import Registry, model_name
from tasks.registry.register_model import Registration
from tasks.registry.registration_result import RegistrationResult
from tasks.registry.version_tags import StageOutput, VersionTags
from tasks.report import FOLDER, PAGE
from tasks.report.card_pictures import FILES
from tasks.report.model_card import CARD
from tasks.storage import git
from tasks.storage.code_state import sources
from tasks.storage.dvc import dvc_lockfile
from tasks.storage.workspace import Workspace

KEPT_OF_EVALUATION = ("metrics.json", "evaluation.json", "quality.csv", "grid.png", "report.safetensors")


@dataclass(frozen=True)
class StudentOutputs:
    """What is registered: outputs of the run's stages, verified.

    Attributes:
        distill, evaluate: output folders of these stages.
        manifests: manifests of the stages, by name.
        pipeline_run: MLflow id of the run that made them; None outside MLflow.
    """

    workspace: Workspace
    distill: Path
    evaluate: Path
    manifests: dict[str, Manifest]
    pipeline_run: str | None = None


def register_student(outputs: StudentOutputs, name: str, rules: Register) -> RegistrationResult:
    """Registers the student as a version of the model `name` and decides about its promotion by `rules`.

    Called again for the same weights and evaluation it returns the version that is there. That `never` and `first`
    leave it a candidate is no decision about it, and is not recorded.
    """
    registry = Registry(outputs.workspace)
    registration = collect(outputs, name, registry)
    aliases.complete(registry, registration.model)
    version, made = register_model.register(registration)
    decision = promote(registry, version, rules, why="registered by a run", record=rules.promote == "gated")
    webhooks.deliver(registry, version.model)
    return RegistrationResult(
        model=version.model, version=version.number, weights=registration.tags.weights,
        evaluation=registration.tags.evaluation, made=made, promoted=decision.promoted, policy=decision.policy,
        reasons=decision.reasons,
    )  # fmt: skip


def student_folder(output: Path) -> Path:
    """The exported pipeline inside the distill stage's output. Raises FewstepError when it is not there."""
    descriptions = sorted(output.rglob("fewstep.json"), key=lambda path: len(path.parts))
    if not descriptions or not (descriptions[0].parent / "model_index.json").is_file():
        raise FewstepError(f"{output} holds no exported student (a diffusers folder with fewstep.json)",
                           hint="`fewstep verify` checks it; `fewstep run` makes it again")  # fmt: skip
    return descriptions[0].parent


def undescribed(workspace: Workspace) -> list[str]:
    """How dvc.lock and params.yaml differ from the outputs in data/, a line each; empty when they describe them."""
    entries = dvc_lockfile.lock_entries(workspace)
    stages = graph.IN_DVC
    wrong = [f"params.yaml does not describe data of stage '{item.stage}' ({item.why})"
             for item in plan(workspace, params_file.load(workspace.params), stages=stages)
             if item.state != "current"]  # fmt: skip
    for stage in stages:
        outs = (entries.get(stage.name) or {}).get("outs") or [{}]
        if outs[0].get("md5") is None:
            wrong.append(f"dvc.lock has no record of stage '{stage.name}'")
        elif outs[0]["md5"] != dvc_lockfile.dvc_md5(workspace.root / stage.output):
            wrong.append(f"dvc.lock records other bytes than those in {stage.output}")
    return wrong


def collect(outputs: StudentOutputs, name: str, registry: Registry) -> Registration:
    """Everything that goes with the version, from the outputs of the stages before."""
    root, student = outputs.workspace.root, student_folder(outputs.distill)
    stages = {stage.name: stage for stage in graph.IN_DVC}
    made = {stage: manifests.load(root / declared.output) for stage, declared in stages.items()}
    made_of = sources(outputs.workspace)
    files = _below(outputs.manifests["distill"].files, student.relative_to(outputs.distill))
    results, protocols = _evaluation(outputs.evaluate)
    digests = {stage: manifest.digest for stage, manifest in outputs.manifests.items()}
    tags = VersionTags(
        weights=manifests.tree_digest(files), evaluation=digests["evaluate"], student=digests["distill"],
        teacher=digests["teacher"], trajectories=digests["trajectories"], shards=digests["shard"],
        stages={stage: StageOutput(key=manifest.key, digest=manifest.digest, code=manifest.code)
                for stage, manifest in made.items()},
        given={what: digest for manifest in made.values() for what, digest in manifest.given.items()},
        commit=made_of.workspace.commit or "", modified=made_of.workspace.modified, code=made_of.origin,
        pipeline=next((file.sha256 for file in files if file.path == "pipeline.py"), "stock"),
        results=results, protocols=protocols,
    )  # fmt: skip
    return Registration(
        registry=registry, model=model_name(name), experiment=name, student=student, tags=tags,
        snapshot=_snapshot(outputs, tuple(stages)), parent_run=outputs.pipeline_run,
        tag_snapshot=partial(git.tag_snapshot, root) if made_of.workspace.commit else None,
    )  # fmt: skip


def _snapshot(outputs: StudentOutputs, stages: tuple[str, ...]) -> dict[str, Path]:
    """The files that are kept with the version, by the name that they get there."""
    workspace, root = outputs.workspace, outputs.workspace.root
    kept = {"params.yaml": workspace.params, "dvc.lock": root / "dvc.lock", "dvc.yaml": root / "dvc.yaml"}
    for stage in stages:
        kept[f"manifests/{stage}.json"] = root / graph.stage(stage).output / manifests.NAME
    for path in sorted(outputs.evaluate.rglob("*")):
        if path.name in KEPT_OF_EVALUATION:
            kept.setdefault(path.name, path)
    for name in (PAGE, CARD, *FILES):
        path = workspace.data / FOLDER / name
        if path.is_file():
            kept[name] = path
    for path in sorted((workspace.data / "cost").glob("*.json")):
        kept[f"cost/{path.name}"] = path
    return kept


def _below(files: tuple[File, ...], folder: Path) -> list[File]:
    """Those of `files` that lie below `folder`, with their paths relative to it."""
    return [file.model_copy(update={"path": Path(file.path).relative_to(folder).as_posix()}) for file in files
            if Path(file.path).is_relative_to(folder)]  # fmt: skip


def _evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of an evaluation, and its protocols by their digests."""
    results, report = read(Headline, folder / "metrics.json"), read(Evaluation, folder / "evaluation.json")
    dumped = report.model_dump(mode="json", by_alias=True, include={"protocols"})
    return results.model_dump(mode="json", by_alias=True), dumped["protocols"]
