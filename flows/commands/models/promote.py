"""`fewstep promote`: the promotion flow."""

from __future__ import annotations

import typer

from flows.output import emit, examples


def add(app: typer.Typer) -> None:
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
        from fewstep.util.errors import SettingsError
        from flows.orchestration.decisions import show
        from tasks.config import params_file
        from tasks.registry.model_registry import CANDIDATE, PREVIOUS, parse
        from tasks.storage.workspace import Workspace
        from tasks.tracking.redaction import redact

        workspace = Workspace.find()
        parse(model)
        if to in (CANDIDATE, PREVIOUS) or not to.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"--to {to}: expected champion or an alias of your own; fewstep keeps "
                                f"{CANDIDATE} and {PREVIOUS} itself")
        if dry_run and approve:
            raise SettingsError("--dry-run writes nothing, --approve stores a decision: give one of them")
        if dry_run and store:
            raise SettingsError("--dry-run writes nothing, --registry copies into another store: give one of them")
        mode = "dry-run" if dry_run else "approve" if approve else "promote"
        decision = _flow(workspace, params_file.load(workspace.params).profile, model, to, mode, why, store)
        if store:
            decision |= {"registry": redact(store), "copy_of": model}
        emit(decision, as_json, lambda out: show(out, decision, dry=dry_run))
        if not decision["promoted"] and not decision["pending"]:
            raise typer.Exit(1)


def _flow(workspace, profile: str, model: str, to: str, mode: str, why: str, store: str | None) -> dict:
    from flows.orchestration.decisions import carried
    from flows.orchestration.prefect_api import prefect_api
    from flows.runs.log_capture import drain, logs_to

    log = workspace.shared / "logs" / "promotion.log"
    with prefect_api(workspace, profile, log), carried(store) as variable:
        from flows.orchestration.promotion_flow import promotion

        with logs_to(log):
            try:
                return promotion(str(workspace.root), model, to, mode, why, store=variable)
            finally:
                drain()
