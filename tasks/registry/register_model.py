"""The steps that register a student: killed between any two of them and run again, they end in exactly one version.

The intent is written down first; each step looks for its result before it makes it. The version itself appears in one
transaction, with all its tags, after its bytes are complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.errors import DataDiffers
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_file
from tasks.registry.model_registry import CANDIDATE, SNAPSHOT, Registry, Version, folder_digest
from tasks.registry.version_tags import VersionTags
from tasks.report.card_pictures import FILES
from tasks.report.model_card import CARD, in_registry
from tasks.storage import git
from tasks.storage.file_io import clone_or_copy, list_files
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Holder, Standing, take
from tasks.storage.sharing.lease_keeper import kept
from tasks.storage.sharing.shared_store import shared_store
from tasks.tracking.metric_buffer import numbers
from tasks.tracking.mlflow_client import LoggedModelStatus, all_pages, if_present
from tasks.tracking.store_uri import sqlite_file

HOST_TAG = "fewstep.host"   # of runs and logged models: who works on them (tasks.storage.sharing.host)
PAUSE = 3.0                 # seconds between two looks at another host's registration


@dataclass
class Registration:
    """A student to be registered, and the results of the steps so far.

    Attributes:
        student: the exported folder.
        snapshot: files kept with the version, by name.
        tags: what the version was made of; `snapshot` is filled in by a step.
        parent_run: MLflow run of the pipeline run; None outside one.
        tag_snapshot: `tag_snapshot(name, files)` makes the git tag; None where there is no git.
    """

    registry: Registry
    model: str
    experiment: str
    student: Path
    snapshot: dict[str, Path]
    tags: VersionTags
    parent_run: str | None = None
    tag_snapshot: Callable[[str, dict[str, Path]], object] | None = None
    run_id: str = ""
    model_id: str = ""
    version: Version | None = None

    @property
    def label(self) -> str:
        return f"{self.tags.weights[:16]}-{self.tags.evaluation[:16]}"

    @property
    def intent(self) -> Path:
        return self.registry.folder / self.model / f"intent-{self.label}.json"

    @property
    def work(self) -> Path:
        return self.registry.folder / self.model / f"upload-{self.label}"

    @property
    def mlflow_tags(self) -> dict[str, str]:
        """Tags by which the run and the logged model of this registration are recognised."""
        return {"fewstep.model": self.model, "fewstep.weights": self.tags.weights,
                "fewstep.evaluation": self.tags.evaluation, HOST_TAG: owner(self.registry.workspace)}  # fmt: skip

    def find(self) -> Version | None:
        """The registered version of these weights with this evaluation. Raises DataDiffers for several."""
        versions = self.registry.with_tag(self.model, weights=self.tags.weights, evaluation=self.tags.evaluation)
        if len(versions) > 1:
            raise DataDiffers(f"{self.model} has {len(versions)} versions of the same weights and evaluation "
                              f"({', '.join(str(version.number) for version in versions)})")  # fmt: skip
        return versions[0] if versions else None


def write_intent(registration: Registration) -> None:
    tags = registration.tags
    write_atomically(registration.intent, json.dumps({"weights": tags.weights, "evaluation": tags.evaluation}))


def open_run(registration: Registration) -> None:
    """The MLflow run that holds the snapshot and is the version's source."""
    tracking = registration.registry.tracking
    experiment = tracking.experiment(registration.experiment)
    condition = (f"tags.`fewstep.kind` = 'registration' and tags.`fewstep.weights` = '{registration.tags.weights}' "
                 f"and tags.`fewstep.evaluation` = '{registration.tags.evaluation}'")  # fmt: skip
    runs = all_pages(tracking.client.search_runs, [experiment], condition, order_by=["attributes.start_time ASC"])
    if runs:
        registration.run_id = runs[0].info.run_id
        tracking.client.update_run(registration.run_id, status="RUNNING")
        tracking.client.set_tag(registration.run_id, HOST_TAG, registration.mlflow_tags[HOST_TAG])
        return
    tags = {"fewstep.kind": "registration"} | registration.mlflow_tags
    if registration.parent_run:
        tags["mlflow.parentRunId"] = registration.parent_run
    registration.run_id = tracking.client.create_run(experiment, tags=tags, run_name="register").info.run_id


def store_snapshot(registration: Registration) -> None:
    """Uploads the files and figures that go with the version."""
    folder = registration.work / SNAPSHOT
    _copy(registration.snapshot, folder)
    client = registration.registry.tracking.client
    client.log_artifacts(registration.run_id, str(folder), SNAPSHOT)
    logged = client.get_run(registration.run_id).data.metrics
    results = registration.tags.results
    figures = {name: results[name] for name in ("student", "comparison", "floors") if name in results}
    for name, value in numbers(figures).items():
        if name not in logged:
            client.log_metric(registration.run_id, name, value)
    digests = {name: sha256_file(folder / name) for name in list_files(folder)}
    registration.tags = registration.tags.model_copy(update={"snapshot": digests})


def store_model(registration: Registration) -> None:
    """Uploads the MLflow model; one that a kill left pending is deleted and made anew."""
    from tasks.registry.packaged.pyfunc_model import package  # loads pandas

    tracking, work = registration.registry.tracking, registration.work
    experiment = tracking.experiment(registration.experiment)
    for logged in all_pages(tracking.client.search_logged_models, [experiment],
                            f"source_run_id = '{registration.run_id}'"):  # fmt: skip
        if logged.status == LoggedModelStatus.READY:
            registration.model_id = logged.model_id
            return
        tracking.client.delete_logged_model(logged.model_id)
    student, pipeline, folder = registration.student, work / "pipeline", work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    _copy({name: student / name for name in list_files(student) if name != "manifest.json"}, pipeline)
    if folder_digest(pipeline) != registration.tags.weights:
        raise DataDiffers(f"{student} changed while it was being registered; nothing was registered",
                          hint="`fewstep verify` names the file")  # fmt: skip
    logged = tracking.client.create_logged_model(experiment, name="student", source_run_id=registration.run_id,
                                                 tags=registration.mlflow_tags)  # fmt: skip
    package(pipeline, registration.tags.weights, folder, run_id=registration.run_id, model_id=logged.model_id)
    for name in (CARD, *FILES):     # beside the pipeline, whose digest is the identity of the weights
        if name in registration.snapshot:
            clone_or_copy(registration.snapshot[name], folder / name)
    tracking.client.log_model_artifacts(logged.model_id, str(folder))
    tracking.client.finalize_logged_model(logged.model_id, "READY")
    registration.model_id = logged.model_id


def create_version(registration: Registration) -> None:
    registration.version = registration.find()
    if registration.version is not None:
        return
    client = registration.registry.tracking.client
    if if_present(client.get_registered_model, registration.model) is None:
        client.create_registered_model(registration.model)
    card = registration.snapshot.get(CARD)
    shown = None if card is None else in_registry(card.read_text(encoding="utf-8"))
    client.create_model_version(
        registration.model, f"models:/{registration.model_id}", run_id=registration.run_id, description=shown,
        tags=registration.tags.to_tags(), model_id=registration.model_id)  # fmt: skip
    registration.version = registration.find()


def set_candidate(registration: Registration) -> None:
    registration.registry.set_alias(registration.version, CANDIDATE)


def tag_in_git(registration: Registration) -> None:
    """The git tag that keeps the version's data from being collected as garbage."""
    if registration.tag_snapshot is not None:
        files = {name: path for name, path in registration.snapshot.items() if name in git.SNAPSHOT}
        registration.tag_snapshot(registration.version.git_tag, files)


def close_run(registration: Registration) -> None:
    registration.registry.tracking.client.set_terminated(registration.run_id, status="FINISHED")


def forget_intent(registration: Registration) -> None:
    shutil.rmtree(registration.work, ignore_errors=True)
    registration.intent.unlink(missing_ok=True)


STEPS = (write_intent, open_run, store_snapshot, store_model, create_version, set_candidate, tag_in_git, close_run,
         forget_intent)  # fmt: skip


def register(registration: Registration) -> tuple[Version, bool]:
    """The version of these weights with this evaluation, and whether this call made or completed it.

    While another process or host registers a version of the model, it is waited for.
    """
    registry = registration.registry
    with registry.lock(registration.model), _alone(registry, registration.model, patient=True):
        version = registration.find()
        if version is not None and not registration.intent.exists():
            return version, False
        for step in STEPS:
            step(registration)
    return registry.get(registration.model, registration.version.number), True


@contextlib.contextmanager
def _alone(registry: Registry, model: str, *, patient: bool = False) -> Iterator[bool | None]:
    """Hold the right to register versions of the model among all hosts; the caller holds its file lock.

    Yields True; None where hosts share no store, so that nothing is known of other hosts. `patient`: wait while another
    host has it; otherwise False is yielded then.
    """
    store = shared_store(registry.workspace)
    if store is None:
        yield None
        return
    me = Holder(owner=owner(registry.workspace), host=host_name(), pid=os.getpid())
    while isinstance(answer := take(store, f"models/{model}", me, alone_here=True), Standing) and patient:
        time.sleep(PAUSE)
    if isinstance(answer, Standing):
        yield False
        return
    with kept(answer):
        yield True


def _copy(files: dict[str, Path], folder: Path) -> None:
    """The new folder `folder` with these files under these names."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        clone_or_copy(path, folder / name)


def tidy(registry: Registry) -> list[str]:
    """Sets right what died registrations left in MLflow and on disk; returns a line per thing done. Idempotent.

    Pending models are deleted and open registration runs closed: a later `fewstep run` registers anew. A registration
    that is going on holds its model's lock and lease, so on this host it is waited for, and what another host is
    registering is left alone. Where hosts share MLflow but no store, so is all that another host ever began.
    """
    done: list[str] = []
    experiments = [item.experiment_id for item in all_pages(registry.tracking.client.search_experiments)]
    for model in sorted(path.name for path in registry.folder.glob("*") if (path / "lock").exists()):
        with registry.lock(model) as folder, _alone(registry, model) as alone:
            for work in folder.glob("upload-*"):
                shutil.rmtree(work)
                done.append(f"removed the half-made upload of {model} ({work.name})")
            if alone is False:
                continue
            database = sqlite_file(registry.tracking.uri)
            everything = alone or (database is not None and database.is_relative_to(registry.workspace.shared))
            mine = None if everything else owner(registry.workspace)
            for experiment in experiments:
                done += _tidy_mlflow(registry, model, experiment, mine)
    return done


def _tidy_mlflow(registry: Registry, model: str, experiment: str, mine: str | None) -> list[str]:
    """`mine`: whose tag a model or run must have; None: nobody registers now, so all that looks alive is dead."""
    client, done = registry.tracking.client, []
    for logged in all_pages(client.search_logged_models, [experiment], f"tags.`fewstep.model` = '{model}'"):
        if logged.status == LoggedModelStatus.PENDING and mine in (None, logged.tags.get(HOST_TAG)):
            client.delete_logged_model(logged.model_id)
            done.append(f"deleted the pending model {logged.model_id} of {model}")
    condition = f"tags.`fewstep.model` = '{model}' and attributes.status = 'RUNNING'"
    for run in all_pages(client.search_runs, [experiment], condition):
        if mine in (None, run.data.tags.get(HOST_TAG)):
            client.set_terminated(run.info.run_id, status="KILLED")
            done.append(f"closed the registration run {run.info.run_id} of {model}")
    return done
