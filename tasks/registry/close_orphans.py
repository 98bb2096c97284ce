"""Closes what killed runs leave open in MLflow: runs that look alive, pending models, half-done promotions."""

from __future__ import annotations

from collections.abc import Callable

from tasks.registry import aliases, register_model, webhooks
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
from tasks.tracking.mlflow_client import Tracking, all_pages
from tasks.tracking.store_uri import missing_database

STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # of a run's record → MLflow's; everything else is KILLED


def close_orphans(workspace: Workspace, *, is_abandoned: Callable[[str], bool], states: dict[str, str]) -> list[str]:
    """Closes the MLflow runs of pipeline runs that certainly nobody works on, as their records say (`states`, by id).

    MLflow is shared by hosts: of a run that is another's nothing is changed. Finishes alias moves that a kill cut in
    half, wherever, and tidies registrations. Idempotent; a line per thing done.
    """
    if missing_database(workspace.mlflow_uri):
        return []  # MLflow was never used here
    tracking = Tracking.of(workspace)
    registry = Registry(workspace, tracking)
    done = []
    for experiment in all_pages(tracking.client.search_experiments):
        condition = "attributes.status = 'RUNNING'"
        for run in all_pages(tracking.client.search_runs, [experiment.experiment_id], condition):
            name = run.data.tags.get("fewstep.run")
            if name is None or not is_abandoned(name):
                continue
            if tracking.client.get_run(run.info.run_id).info.status != "RUNNING":
                continue    # it ended in order since it was found: only now is it certain that nobody works on it
            status = STATUS.get(states.get(name, ""), "KILLED")
            tracking.client.set_terminated(run.info.run_id, status=status)
            done.append(f"{run.info.run_name} of {name}: RUNNING → {status}")
    done += register_model.tidy(registry)
    for model in registry.models():
        entry = aliases.complete(registry, model)
        if entry is not None:
            done.append(f"{model}@{entry.alias}: completed the interrupted move to version {entry.to}")
        webhooks.deliver(registry, model)
    return done
