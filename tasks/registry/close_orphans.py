"""What killed runs leave open in MLflow is closed: runs that look alive, pending models, half-done promotions."""

from collections.abc import Callable
from pathlib import Path

from tasks.registry import aliases, register_model, webhooks
from tasks.registry.model_registry import Registry
from tasks.tracking.mlflow_client import Tracking

STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # of a run's record → MLflow's; everything else is KILLED


def mend(workspace, *, is_alive: Callable[[str], bool], states: dict[str, str]) -> list[str]:
    """Closes the MLflow runs of pipeline runs that no process works on, as what their record says (`states`, by id).

    Finishes alias moves that a kill cut in half and tidies registrations. Idempotent; a line per thing done.
    """
    uri = str(workspace.mlflow_uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []  # MLflow was never used here
    tracking = Tracking.of(workspace)
    registry = Registry(workspace, tracking)
    done = []
    for experiment in tracking.pages("search_experiments"):
        open_runs = tracking.pages("search_runs", [experiment.experiment_id], "attributes.status = 'RUNNING'")
        for run in open_runs:
            name = run.data.tags.get("fewstep.run")
            if name is None or is_alive(name):
                continue
            status = STATUS.get(states.get(name, ""), "KILLED")
            tracking.call("set_terminated", run.info.run_id, status=status)
            done.append(f"{run.info.run_name} of {name}: RUNNING → {status}")
    done += register_model.tidy(registry)
    for model in registry.models():
        entry = aliases.complete(registry, model)
        if entry is not None:
            done.append(f"{model}@{entry['alias']}: completed the interrupted move to version {entry['to']}")
        webhooks.deliver(registry, model)
    return done
