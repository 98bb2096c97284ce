"""`fewstep run`: the pipeline from params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fewstep.util.errors import SettingsError
from flows.output import console, emit, examples, say
from flows.runs import isolated as isolated_runs
from flows.runs import profiles
from flows.runs.attempt import execute
from flows.runs.estimate_view import show_in_short
from flows.runs.extractors_ready import require_extractors
from flows.runs.new_run import new_here, preview, unfinished_here
from flows.runs.plan_view import (
    show_advice,
    show_idle_devices,
    show_memory,
    show_nothing_to_do,
    show_plan,
    show_work,
    trains_anew,
    warn_of_false_records,
)
from flows.runs.results_view import show_finished, show_results
from flows.runs.storage_ready import require_storage
from tasks.config import params_file
from tasks.config.advice import advice
from tasks.config.outside import outside_paths
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tasks.config.settings_source import source_of
from tasks.data.encoding_preview import require_encodable
from tasks.engine import idle_devices
from tasks.engine.accept import accept as accept_outputs
from tasks.engine.accept import require_reason
from tasks.engine.plan import PlanItem, nothing_to_do, plan
from tasks.engine.runner import settle
from tasks.estimate.at_start import networks_at_start
from tasks.estimate.run_estimate import RunEstimate
from tasks.registry.audit_log import author
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import RunRecord
from tasks.tracking.run_records import RunStore

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change params.yaml first.")]
On = Annotated[str | None, typer.Option(metavar="ENGINE", help="Where units of work are done: local, processes, ray, "
                                        "ray://HOST:PORT, slurm:PARTITION, pool:NAME; as --set compute.on=ENGINE.")]
Params = Annotated[str | None, typer.Option(metavar="NAME", help="Take an example (sdxl-dmd2) or a file as params.yaml "
                                            "first.")]


@dataclass(frozen=True)
class Answer:
    """What the command prints at its end: `data` as JSON, or by `show`."""

    data: dict
    show: Callable[[Console], None]


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep run", "fewstep run --set distill.recipe=dmd2 --set distill.images=100000",
                                 "fewstep run --params params/large.yaml", "fewstep run --isolated --set seed=1"))
    def run(
        sets: Sets = None,
        params: Params = None,
        on: On = None,
        reshard: bool = typer.Option(False, "--reshard", help="Let a training in shards go on with another number of "
                                     "processes, in other bits; as --set compute.reshard=true."),
        isolated: bool = typer.Option(False, "--isolated", help="Leave this checkout alone: work in a git worktree of "
                                      "its present state, over the shared DVC cache."),
        accept: bool = typer.Option(False, "--accept", help="Keep results whose code alone has changed, where a short "
                                    "run of both codes makes the same bits (`fewstep accept`)."),
        why: str | None = typer.Option(None, "--why", metavar="TEXT", help="The reason, with --accept."),
        dry_run: bool = typer.Option(False, "--dry-run", help="Check everything and say what would be made and why; "
                                     "write nothing."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON; progress goes to stderr."),
    ) -> None:
        """Run the pipeline; what is done already is skipped, an unfinished run with these settings is continued."""
        workspace, source = Workspace.find(), given_settings(params)
        sets = [*(sets or []), *([f"compute.on={on}"] if on else []),
                *(["compute.reshard=true"] if reshard else [])]
        if accept != (why is not None):
            raise SettingsError("--accept and --why go together: results are kept for a reason",
                                hint="fewstep run --accept --why 'renamed a variable'")
        if why is not None:
            require_reason(why)
        if dry_run:
            settings = _previewed(workspace, sets, source)
            items = plan(workspace, settings)
            _require_inputs(workspace, settings, items)
            told = advice(workspace.root, settings)
            said = idle_devices.said(workspace.root, settings)
            found = _estimated(workspace, settings) if trains_anew(items) else None

            def show(out: Console) -> None:
                show_plan(items, out)
                if isinstance(found, RunEstimate):
                    show_in_short(out, found)
                elif found is not None:
                    say(out, found, "yellow")
                show_advice(told, items, out)
                show_idle_devices(said, items, out)

            memory = {} if found is None else {"memory": found.plain() if isinstance(found, RunEstimate) else found}
            stages = [item.to_dict() for item in items]
            emit({"stages": stages, "advice": told, "devices": said, **memory}, as_json, show)
            return
        if isolated and accept:
            raise SettingsError("--isolated leaves this checkout alone, --accept changes it: give one of them")
        if isolated:
            _isolated(workspace, sets, source, as_json)
        else:
            answer = _here(workspace, sets, source, why, as_json)
            emit(answer.data, as_json, answer.show)


def given_settings(params: str | None) -> Path | None:
    """The file that `--params` names, where it is given."""
    return None if params is None else source_of(params, "--params")


def _previewed(workspace: Workspace, sets: list[str], params: Path | None) -> Settings:
    """The settings that the run would have, checked; nothing is written."""
    settings, _ = preview(workspace, sets, params)
    profiles.check(settings.profile)
    validate(workspace.root, settings)
    return settings


def _require_inputs(workspace: Workspace, settings: Settings, items: list[PlanItem]) -> None:
    """Raises, before anything is changed, for what the stages that are to be made would refuse of what they are given:
    files of extractors, and texts and sizes that the teacher cannot encode."""
    require_extractors(workspace, settings, items)
    if any(item.stage == "encode" and item.state in ("stale", "missing") for item in items):
        require_encodable(workspace.root, settings)


def _estimated(workspace: Workspace, settings: Settings) -> RunEstimate | str | None:
    """What the run would take of this machine, or why that is not told; None for a teacher that is trained here, which
    is small."""
    if outside_paths(settings, workspace.root)["teacher"] is None:
        return None
    from tasks.estimate.here import estimate_here  # loads torch

    try:
        return estimate_here(workspace.root, settings)
    except RuntimeError as error:   # of torch: a network need not compute on tensors without values to be trained
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"memory: not told, as a step on tensors without values fails: {first}"


def _here(workspace: Workspace, sets: list[str], params: Path | None, accepted: str | None, as_json: bool) -> Answer:
    """Run in this checkout. `accepted`: why results whose code alone has changed are accepted; None: they are not."""
    settings = _previewed(workspace, sets, params)
    items = plan(workspace, settings)       # raises for inputs that are missing, before anything is changed
    if not nothing_to_do(items):
        _require_inputs(workspace, settings, items)
        require_storage(workspace)
    record = unfinished_here(workspace, settings)
    run = record.id if record else RunStore.new_id(settings.name)
    with workspace_lock(workspace, run):
        settings = params_file.write_overrides(workspace.params, sets, params)
        out = console(stderr=as_json)
        if accepted is not None:
            accept_outputs(workspace, settings, None, why=accepted, who=author(), say=lambda line: say(out, line))
        items = plan(workspace, settings)
        if nothing_to_do(items) and record is None:
            return nothing_done(workspace, settings, items, settle(workspace, settings, items))
        warn_of_false_records(items, console(stderr=True))
        show_work(items, out)
        show_memory(networks_at_start(workspace.root, settings), items, out)
        show_advice(advice(workspace.root, settings), items, out)
        show_idle_devices(idle_devices.said(workspace.root, settings), items, out)
        return finished(execute(workspace, record or new_here(workspace, settings, run), json_mode=as_json))


def _isolated(workspace: Workspace, sets: list[str], params: Path | None, as_json: bool) -> None:
    settings, text = isolated_runs.resolve(workspace, sets, params)
    profiles.check(settings.profile)
    validate(workspace.root, settings)
    items = plan(workspace, settings)
    if isolated_runs.nothing_to_do(workspace, items):
        answer = nothing_done(workspace, settings, items, {})
        emit(answer.data, as_json, answer.show)
        return
    _require_inputs(workspace, settings, items)
    show_work(items, console(stderr=as_json))
    show_advice(advice(workspace.root, settings), items, console(stderr=as_json))
    record = isolated_runs.start(workspace, settings, text)
    show_isolated(workspace, isolated_runs.execute(workspace, record, json_mode=as_json), as_json)


def show_isolated(workspace: Workspace, record: RunRecord, as_json: bool) -> None:
    """Prints the answer of a finished isolated run, whose results lie in its worktree, and then removes that."""
    answer = finished(record)
    emit(answer.data, as_json, answer.show)
    isolated_runs.tidy(workspace, record)


def nothing_done(workspace: Workspace, settings: Settings, items: Sequence[PlanItem],
                 refused: dict[str, str]) -> Answer:
    """The answer when every stage is up to date; `refused`: what DVC's record refused, by stage."""

    def show(out: Console) -> None:
        show_nothing_to_do(items, refused, out)
        show_results(workspace.root, settings.name, out)

    return Answer({"state": "current", "run": None, "stages": [item.to_dict() for item in items],
                   "dvc_refused": refused}, show)


def finished(record: RunRecord) -> Answer:
    """The answer after a successful run."""
    stages = {name: {"state": stage.state, "key": stage.key, "digest": stage.digest, "seconds": round(stage.seconds, 3)}
              for name, stage in record.stages.items()}
    return Answer({"state": record.state, "run": record.id, "mlflow": record.mlflow, "prefect": record.prefect,
                   "stages": stages}, lambda out: show_finished(record, out))
