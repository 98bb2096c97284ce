"""`fewstep run`: the pipeline from params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.output import console, emit, examples, say

_WORDS = {"restorable": "in the cache", "missing": "in the registry", "stale": "in the registry"}
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change params.yaml first.")]
Params = Annotated[Path | None, typer.Option(metavar="FILE", help="Take this file as params.yaml first.")]

def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("fewstep run", "fewstep run --set distill.recipe=dmd2 --set distill.images=100000",
                                 "fewstep run --params params/large.yaml", "fewstep run --isolated --set seed=1"))
    def run(
        sets: Sets = None,
        params: Params = None,
        isolated: bool = typer.Option(False, "--isolated", help="Leave this checkout alone: work in a git worktree of "
                                      "its present state, over the shared DVC cache."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON; progress goes to stderr."),
    ) -> None:
        """Run the pipeline; what is done already is skipped, an unfinished run with these settings is continued."""
        from tasks.storage.workspace import Workspace

        workspace = Workspace.find()
        act = _isolated if isolated else _here
        result, show, afterwards = act(workspace, sets or [], params, as_json)
        emit(result, as_json, show)
        afterwards()


def _here(workspace, sets: list[str], params: Path | None, as_json: bool):
    from flows.runs import profiles
    from flows.runs.attempt import execute, named_problems, new_here, preview, unfinished_here
    from tasks.config import params_file
    from tasks.config.preflight import validate
    from tasks.engine.plan import nothing_to_do, plan
    from tasks.engine.runner import settle
    from tasks.storage.locks import workspace_lock
    from tasks.tracking.run_records import RunStore

    settings, _ = preview(workspace, sets, params)
    profiles.check(settings.profile)
    validate(workspace.root, settings)
    plan(workspace, settings)       # raises for inputs that are missing, before anything is changed
    record = unfinished_here(workspace, settings)
    run = record.id if record else RunStore.new_id(settings.name)
    with workspace_lock(workspace, run):
        settings = params_file.write_overrides(workspace.params, sets, params)
        items = plan(workspace, settings)
        if nothing_to_do(items) and record is None:
            return _nothing(workspace, settings, items, settle(workspace, settings, items))
        for note in named_problems(items):
            say(console(stderr=True), f"warning: {note}")
        record = execute(workspace, record or new_here(workspace, settings, run), json_mode=as_json)
    return done(record)


def _isolated(workspace, sets: list[str], params: Path | None, as_json: bool):
    from flows.runs import isolated, profiles
    from tasks.config.preflight import validate
    from tasks.engine.plan import plan

    settings, text = isolated.resolve(workspace, sets, params)
    profiles.check(settings.profile)
    validate(workspace.root, settings)
    items = plan(workspace, settings)
    if isolated.nothing_to_do(workspace, items):
        return _nothing(workspace, settings, items, {})
    record = isolated.execute(workspace, isolated.start(workspace, settings, text), json_mode=as_json)
    return done(record, lambda: isolated.tidy(workspace, record))


def _nothing(workspace, settings, items, refused: dict[str, str]):
    from flows.runs.attempt import show_results

    result = {"state": "current", "run": None, "stages": [item.to_dict() for item in items], "dvc_refused": refused}

    def show(out) -> None:
        out.print("[green]✓[/] nothing to do: every stage is up to date")
        for item in items:
            out.print(f"  {item.stage:<13}[dim]{item.key[:12]}[/]" + (
                "" if item.state == "current" else f"  {_WORDS[item.state]}"))
        for text in refused.values():
            say(out, f"warning: {text}")
        show_results(workspace.root, settings.name, out)

    return result, show, lambda: None


def done(record, afterwards=None):
    """What a command answers after a successful run: the result, how to show it, and what to do after that."""
    from flows.runs.attempt import say_done

    result = {"state": record.state, "run": record.id, "mlflow": record.mlflow, "prefect": record.prefect,
              "stages": {name: {"state": stage.state, "key": stage.key, "digest": stage.digest,
                                "seconds": round(stage.seconds, 3)} for name, stage in record.stages.items()}}
    return result, lambda out: say_done(record, out), afterwards or (lambda: None)
