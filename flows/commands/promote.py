"""`fewstep promote`: the promotion flow."""

from __future__ import annotations

import typer

from flows.output import emit, examples


def add(app: typer.Typer) -> None:
    @app.command("promote", epilog=examples("fewstep promote digits", "fewstep promote digits/7 --why 'sharper eights'",
                                            "fewstep promote digits@candidate --to champion"))
    def promote(model: str = typer.Argument(..., metavar="MODEL",
                                            help="NAME (its candidate), NAME@ALIAS or NAME/VERSION."),
                to: str = typer.Option("champion", "--to", help="The alias to move."),
                why: str = typer.Option("", "--why", help="Goes into the record."),
                as_json: bool = typer.Option(False, "--json", help="Print the decision as JSON.")) -> None:
        """Make a version champion if its lineage verifies, the floors hold and a paired test shows it better.

        Exit code 1 when it is refused; the reasons are printed and recorded.
        """
        from fewstep.errors import SettingsError
        from tasks import settings as settings_module
        from tasks.registry import CANDIDATE, PREVIOUS, parse
        from tasks.workspace import Workspace

        workspace = Workspace.find()
        parse(model)
        if to in (CANDIDATE, PREVIOUS) or not to.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"--to {to}: expected champion or an alias of your own; fewstep keeps "
                                f"{CANDIDATE} and {PREVIOUS} itself")
        decision = _flow(workspace, settings_module.load(workspace.params).profile, model, to, why)
        emit(decision, as_json, lambda out: _show(out, decision))
        if not decision["promoted"]:
            raise typer.Exit(1)


def _flow(workspace, profile: str, model: str, to: str, why: str) -> dict:
    from flows.logs import drain, logs_to
    from flows.server import prefect_api

    log = workspace.shared / "logs" / "promotion.log"
    with prefect_api(workspace, profile, log):
        from flows.promotion import promotion

        with logs_to(log):
            try:
                return promotion(str(workspace.root), model, to, why)
            finally:
                drain()


def _show(out, decision: dict) -> None:
    from rich.text import Text

    name, former = f"{decision['model']}/{decision['version']}", decision["former"]
    if decision["promoted"]:
        after = f" (was version {former}, now @previous)" if former and decision["alias"] == "champion" else ""
        out.print(Text.assemble(("promoted  ", "green"), f"{name} is {decision['model']}@{decision['alias']}{after}"))
    else:
        out.print(Text.assemble(("refused  ", "yellow"), f"{name} does not become {decision['alias']}:"))
    for reason in decision["reasons"]:
        out.print(Text("  " + reason))
    for figure, value in decision["figures"].items():
        if isinstance(value, dict):
            out.print(Text(f"  {value['metric']}: {value['difference']:+.3e} ± {value['standard_error']:.1e} "
                           f"(n = {value['n']}, features {value['features']})"))
        else:
            out.print(Text(f"  {figure}: " + ("not measured" if value is None else f"{value:.4g}")))
