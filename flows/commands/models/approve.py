"""`fewstep approve` and `fewstep reject`: a person decides what `fewstep promote --approve` left waiting."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

from flows.orchestration.announcement import announce
from flows.output import emit, examples
from tasks.registry.audit_log import Entry
from tasks.storage.workspace import Workspace

IDENTITY = typer.Argument(None, metavar="ID", help="The decision's id, or its first digits; all that wait if left out.")
STORE = typer.Option(None, "--registry", metavar="URI", help="Where it waits, if in another MLflow store.")
WHY = typer.Option("", "--why", help="Goes into the record.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


def add(app: typer.Typer) -> None:
    """Adds both commands to `app`."""

    @app.command("approve", epilog=examples("fewstep approve", "fewstep approve 3f2a91c0 --why 'looked at the grid'"))
    def approve(identity: str = IDENTITY, store: str = STORE, why: str = WHY,
                as_json: bool = JSON) -> None:
        """Carry out a waiting promotion, if the champion is still the one it was decided against; list what waits."""
        _decide(identity, True, store, why, as_json)

    @app.command("reject", epilog=examples("fewstep reject 3f2a91c0 --why 'sevens look odd'"))
    def reject(identity: str = IDENTITY, store: str = STORE, why: str = WHY,
               as_json: bool = JSON) -> None:
        """Turn a waiting promotion down; nothing moves. List what waits."""
        _decide(identity, False, store, why, as_json)


def _decide(identity: str | None, approved: bool, store: str | None, why: str, as_json: bool) -> None:
    from tasks.registry import copy_version, webhooks  # MLflow takes seconds to load
    from tasks.registry.gate import pending_approvals

    workspace = Workspace.find()
    registry = copy_version.open_store(workspace, store)
    if identity is None:
        pending = [(name, entry) for name in registry.models() for entry in pending_approvals.waiting(registry, name)]
        emit([{"model": name, **entry.to_dict()} for name, entry in pending], as_json, lambda out: _list(out, pending))
        return
    model, _ = pending_approvals.find(registry, identity)
    try:
        entry = (pending_approvals.approve if approved else pending_approvals.reject)(registry, identity, why=why)
    finally:
        webhooks.deliver(registry, model)
    announce(workspace, model, entry)
    emit({"model": model, **entry.to_dict()}, as_json, lambda out: _show(out, model, entry))


def _list(out: Console, pending: list[tuple[str, Entry]]) -> None:
    for model, entry in pending:
        out.print(Text(f"{entry.id[:8]}  {model}/{entry.to} → {entry.alias}, asked by {entry.who} "
                       f"at {entry.when}, until {entry.expires}  {entry.why}".rstrip()))
    if not pending:
        out.print("nothing waits: `fewstep promote MODEL --approve` leaves a decision to a person")


def _show(out: Console, model: str, entry: Entry) -> None:
    name, promoted = f"{model}/{entry.to}", entry.event == "promoted"
    out.print(Text.assemble((f"{entry.event}  ", "green" if promoted else "yellow"),
                            f"{name} is {model}@{entry.alias}" if promoted else f"{name} stays as it is"))
