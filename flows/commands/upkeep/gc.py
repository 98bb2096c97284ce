"""`fewstep gc`: data that no run and no registered version uses."""

from __future__ import annotations

import typer

from flows.output import count, emit, examples
from tasks.engine.cleanup import used_keys
from tasks.storage.dvc.dvc_garbage import collect_garbage
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("gc", epilog=examples("fewstep gc --dry-run", "fewstep gc", "fewstep gc --keep-runs 5",
                                       "fewstep gc --remote --dry-run"))  # fmt: skip
    def gc(keep: int = typer.Option(None, "--keep-runs", min=0, metavar="N",
                                    help="Keep only the data of the N newest runs (default: of all runs)."),
           remote: bool = typer.Option(False, "--remote", help="In the object store that hosts share: what no run of "
                                       "any host, no lease and no registered version needs."),
           dry: bool = typer.Option(False, "--dry-run", help="Only say what would be removed."),
           as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Remove data from DVC's cache that no run, no registered version and no checkout uses."""
        workspace = Workspace.find()
        with workspace_lock(workspace, "gc"):
            result = _collect_remote(workspace, keep, dry) if remote \
                else collect_garbage(workspace, used_keys(workspace, keep), dry=dry)
        verb = "would remove" if dry else "removed"
        work = f" and {count(result['work'])} of unfinished work" if result.get("work") else ""
        emit({**result, "dry_run": dry}, as_json, lambda out: out.print(
            f"{verb} {count(result['removed'])} files of {count(result['bytes'])} bytes{work}; "
            f"{count(result['kept'])} outputs are in use"))


def _collect_remote(workspace: Workspace, keep: int | None, dry: bool) -> dict:
    from tasks.engine.remote_cleanup import Needed, collect  # boto3
    from tasks.registry.model_registry import Registry  # MLflow takes seconds to load
    from tasks.registry.registered_outputs import registered_outputs

    return collect(workspace, Needed(*registered_outputs(Registry(workspace))), keep, dry=dry)
