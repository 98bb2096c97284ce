"""`fewstep promote`: the promotion flow."""

from __future__ import annotations

import typer

from fewstep.util.errors import SettingsError
from flows.orchestration.prefect_api import prefect_api
from flows.output import emit, examples
from flows.runs.log_capture import drain, logs_to
from tasks.config import params_file
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("promote", epilog=examples("fewstep promote digits --dry-run",
                                            "fewstep promote digits/7 --why 'sharper eights'",
                                            "fewstep promote digits --approve   # a person has the last word",
                                            "fewstep promote digits --registry https://mlflow.example.org"))
    def promote(model: str = typer.Argument(..., metavar="MODEL",
                                            help="NAME (its candidate), NAME@ALIAS or NAME/VERSION."),
                to: str = typer.Option("champion", "--to", help="The alias to move."),
                dry_run: bool = typer.Option(False, "--dry-run", help="Show the table and the decision; write "
                                             "nothing."),
                approve: bool = typer.Option(False, "--approve", help="Store the decision for `fewstep approve` "
                                             "instead of moving the alias."),
                store: str = typer.Option(None, "--registry", metavar="URI", help="Promote in the registry of another "
                                          "MLflow store, into which the bytes are copied."),
                why: str = typer.Option("", "--why", help="Goes into the record."),
                as_json: bool = typer.Option(False, "--json", help="Print the decision as JSON.")) -> None:
        """Make a version champion if it is shown at least as good as the champion, and better or cheaper.

        Both are sampled afresh from common noise. Every gated figure must be within its margin (register.gate in
        params.yaml), lineage and floors must hold. Exit code 1 when it is refused; the reasons are printed and
        recorded.
        """
        from flows.commands.models.decision_view import show  # MLflow takes seconds to load
        from tasks.registry.model_registry import CANDIDATE, PREVIOUS, parse

        workspace = Workspace.find()
        parse(model)
        if to in (CANDIDATE, PREVIOUS) or not to.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"--to {to}: expected champion or an alias of your own; fewstep keeps "
                                f"{CANDIDATE} and {PREVIOUS} itself")
        if dry_run and approve:
            raise SettingsError("--dry-run writes nothing, --approve stores a decision: give one of them")
        if dry_run and store:
            raise SettingsError("--dry-run writes nothing, --registry copies into another store: give one of them")
        log = workspace.shared / "logs" / "promotion.log"
        with prefect_api(workspace, params_file.load(workspace.params).profile, log):
            from flows.orchestration.promotion_flow import Promotion  # Prefect reads its environment on import

            mode = "dry-run" if dry_run else "approve" if approve else "promote"
            promotion = Promotion(workspace, model, to, mode, why, store)
            with logs_to(log):
                try:
                    decision = promotion.run()
                finally:
                    drain()
        registry, copy_of = (redact(store), model) if store else (None, None)
        run = {"run": promotion.flow_run} if decision.pending and store is None else {}
        there = {"registry": registry, "copy_of": copy_of} if store else {}
        emit(decision.to_dict() | run | there, as_json, lambda out: show(
            out, decision, dry=dry_run, registry=registry, copy_of=copy_of, flow_run=promotion.flow_run))
        if not decision.promoted and not decision.pending:
            raise typer.Exit(1)
