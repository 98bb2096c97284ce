"""The steps that register a student: killed between any two of them and run again, they end in exactly one version.

What is to be registered is written down first (the intent); each step looks for what it would make before it makes it.
The version itself appears in one transaction, with all its tags, after its bytes are complete.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.util.errors import DataDiffers
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_file
from tasks.registry.model_registry import CANDIDATE, SNAPSHOT, Registry, Version, folder_digest
from tasks.storage import git
from tasks.storage.file_io import clone_or_copy, list_files


@dataclass
class Registration:
    """What is being registered, and what the steps have found or made so far.

    `student` is the exported folder, `snapshot` maps names to the files kept with the version, `tags` are the version's
    tags without their `fewstep.` prefix. `tag_snapshot(name, files)` makes the git tag; None where there is no git.
    """

    registry: Registry
    model: str
    experiment: str
    weights: str
    evaluation: str
    student: Path
    snapshot: dict[str, Path]
    tags: dict[str, str]
    parent_run: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tag_snapshot: Callable[[str, dict[str, Path]], None] | None = None
    run_id: str = ""
    model_id: str = ""
    version: Version | None = None

    @property
    def label(self) -> str:
        return f"{self.weights[:16]}-{self.evaluation[:16]}"

    @property
    def intent(self) -> Path:
        return self.registry.folder / self.model / f"intent-{self.label}.json"

    @property
    def work(self) -> Path:
        return self.registry.folder / self.model / f"upload-{self.label}"

    def find(self) -> Version | None:
        """The registered version of these weights with this evaluation. More than one raises DataDiffers."""
        found = self.registry.with_tag(self.model, weights=self.weights, evaluation=self.evaluation)
        if len(found) > 1:
            raise DataDiffers(f"{self.model} has {len(found)} versions of the same weights and evaluation "
                              f"({', '.join(str(version.number) for version in found)})")  # fmt: skip
        return found[0] if found else None


def write_intent(what: Registration) -> None:
    write_atomically(what.intent, json.dumps({"weights": what.weights, "evaluation": what.evaluation}))


def open_run(what: Registration) -> None:
    """The MLflow run that holds the snapshot and is the version's source."""
    tracking, experiment = what.registry.tracking, what.registry.tracking.experiment(what.experiment)
    condition = (f"tags.`fewstep.kind` = 'registration' and tags.`fewstep.weights` = '{what.weights}' "
                 f"and tags.`fewstep.evaluation` = '{what.evaluation}'")  # fmt: skip
    found = tracking.pages("search_runs", [experiment], condition, order_by=["attributes.start_time ASC"])
    if found:
        what.run_id = found[0].info.run_id
        tracking.call("update_run", what.run_id, status="RUNNING")
        return
    tags = {"fewstep.kind": "registration", "fewstep.model": what.model, "fewstep.weights": what.weights,
            "fewstep.evaluation": what.evaluation}  # fmt: skip
    if what.parent_run:
        tags["mlflow.parentRunId"] = what.parent_run
    what.run_id = tracking.call("create_run", experiment, tags=tags, run_name="register").info.run_id


def store_snapshot(what: Registration) -> None:
    folder = what.work / SNAPSHOT
    shutil.rmtree(folder, ignore_errors=True)
    for name, path in what.snapshot.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        clone_or_copy(path, folder / name)
    tracking = what.registry.tracking
    tracking.call("log_artifacts", what.run_id, str(folder), SNAPSHOT)
    known = tracking.call("get_run", what.run_id).data.metrics
    for name, value in what.metrics.items():
        if name not in known:
            tracking.call("log_metric", what.run_id, name, value)
    hashes = {name: sha256_file(folder / name) for name in list_files(folder)}
    what.tags["snapshot"] = json.dumps(hashes, sort_keys=True)


def store_model(what: Registration) -> None:
    """Uploads the MLflow model; one that a kill left pending is deleted and made anew."""
    tracking, experiment = what.registry.tracking, what.registry.tracking.experiment(what.experiment)
    condition = f"source_run_id = '{what.run_id}'"
    for logged in tracking.pages("search_logged_models", [experiment], condition):
        if str(logged.status) in ("READY", "LoggedModelStatus.READY"):
            what.model_id = logged.model_id
            return
        tracking.call("delete_logged_model", logged.model_id)
    from tasks.registry.pyfunc_model import package

    pipeline, folder = what.work / "pipeline", what.work / "model"
    for path in (pipeline, folder):
        shutil.rmtree(path, ignore_errors=True)
    for name in list_files(what.student):
        if name != "manifest.json":
            (pipeline / name).parent.mkdir(parents=True, exist_ok=True)
            clone_or_copy(what.student / name, pipeline / name)
    if folder_digest(pipeline) != what.weights:
        raise DataDiffers(f"{what.student} changed while it was being registered; nothing was registered",
                          hint="`fewstep verify` names the file")  # fmt: skip
    tags = {"fewstep.model": what.model, "fewstep.weights": what.weights, "fewstep.evaluation": what.evaluation}
    logged = tracking.call("create_logged_model", experiment, name="student", source_run_id=what.run_id, tags=tags)
    package(pipeline, what.weights, folder, run_id=what.run_id, model_id=logged.model_id)
    tracking.call("log_model_artifacts", logged.model_id, str(folder))
    tracking.call("finalize_logged_model", logged.model_id, "READY")
    what.model_id = logged.model_id


def create_version(what: Registration) -> None:
    what.version = what.find()
    if what.version is not None:
        return
    tracking = what.registry.tracking
    if tracking.find("get_registered_model", what.model) is None:
        tracking.call("create_registered_model", what.model)
    tags = {f"fewstep.{key}": value for key, value in what.tags.items()}
    tracking.call("create_model_version", what.model, f"models:/{what.model_id}", run_id=what.run_id, tags=tags,
                  model_id=what.model_id)  # fmt: skip
    what.version = what.find()


def set_candidate(what: Registration) -> None:
    what.registry.set_alias(what.version, CANDIDATE)


def tag_in_git(what: Registration) -> None:
    """The git tag that keeps the version's data from being collected as garbage."""
    if what.tag_snapshot is not None:
        files = {name: path for name, path in what.snapshot.items() if name in git.SNAPSHOT}
        what.tag_snapshot(what.version.git_tag, files)


def close_run(what: Registration) -> None:
    what.registry.tracking.call("set_terminated", what.run_id, status="FINISHED")


def forget_intent(what: Registration) -> None:
    shutil.rmtree(what.work, ignore_errors=True)
    what.intent.unlink(missing_ok=True)


STEPS = (write_intent, open_run, store_snapshot, store_model, create_version, set_candidate, tag_in_git, close_run,
         forget_intent)  # fmt: skip


def register(what: Registration) -> tuple[Version, bool]:
    """The version of these weights with this evaluation, and whether this call made or completed it."""
    with what.registry.lock(what.model):
        found = what.find()
        if found is not None and not what.intent.exists():
            return found, False
        for step in STEPS:
            step(what)
    return what.registry.get(what.model, what.version.number), True


def tidy(registry: Registry) -> list[str]:
    """Sets right what died registrations left in MLflow and on disk; returns a line per thing done. Idempotent.

    Pending models are deleted and open registration runs closed: a later `fewstep run` registers anew. A registration
    that is going on holds its model's lock, so it is waited for, never disturbed.
    """
    done: list[str] = []
    experiments = [item.experiment_id for item in registry.tracking.pages("search_experiments")]
    for model in sorted(path.name for path in registry.folder.glob("*") if (path / "lock").exists()):
        with registry.lock(model) as folder:
            for work in folder.glob("upload-*"):
                shutil.rmtree(work)
                done.append(f"removed the half-made upload of {model} ({work.name})")
            for experiment in experiments:
                done += _tidy_mlflow(registry, model, experiment)
    return done


def _tidy_mlflow(registry: Registry, model: str, experiment: str) -> list[str]:
    tracking, done = registry.tracking, []
    for logged in tracking.pages("search_logged_models", [experiment], f"tags.`fewstep.model` = '{model}'"):
        if str(logged.status) in ("PENDING", "LoggedModelStatus.PENDING"):
            tracking.call("delete_logged_model", logged.model_id)
            done.append(f"deleted the pending model {logged.model_id} of {model}")
    condition = f"tags.`fewstep.model` = '{model}' and attributes.status = 'RUNNING'"
    for run in tracking.pages("search_runs", [experiment], condition):
        tracking.call("set_terminated", run.info.run_id, status="KILLED")
        done.append(f"closed the registration run {run.info.run_id} of {model}")
    return done
