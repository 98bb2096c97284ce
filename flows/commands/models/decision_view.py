"""How a decision about a version looks in the terminal: the table of figures, the outcome, the next command."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.registry.aliases import Decision

COLOURS = {"better": "green", "within": "default", "worse": "red", "unclear": "yellow", "too few samples": "yellow"}


def show(out: Console, decision: Decision, *, dry: bool = False, registry: str | None = None,
         copy_of: str | None = None, flow_run: str | None = None) -> None:
    """Prints a decision.

    Args:
        out: the console.
        decision: what was decided, or would be if `dry`.
        dry: whether nothing was written.
        registry: address of the other MLflow store that was decided in, without secrets; None for this checkout's.
        copy_of: the version of this checkout that was copied into `registry`.
        flow_run: the suspended run of Prefect on whose page a waiting decision can be answered.
    """
    contest = decision.figures.get("contest")
    if contest:
        out.print(_table(contest, decision.version))
        out.print(Text(_conditions(contest), style="dim"))
    for figure, value in decision.figures.get("floors", {}).items():
        out.print(Text(f"floor {figure}: " + ("not measured" if value is None else f"{value:.4g}")))
    for line in decision.figures.get("accepted", []):
        out.print(Text(f"lineage: {line}", style="yellow"))
    name = f"{decision.model}/{decision.version}"
    if decision.pending:
        _show_pending(out, decision, name, registry, flow_run)
    elif decision.promoted and dry:
        out.print(Text.assemble(("would promote  ", "green"), f"{name} to {decision.alias}; nothing was changed"))
    elif decision.promoted:
        former = f" (was version {decision.former}, now @previous)"
        out.print(Text.assemble(("promoted  ", "green"), f"{name} is {decision.model}@{decision.alias}"
                                + (former if decision.former and decision.alias == "champion" else "")))
    else:
        outcome = "would refuse" if dry else "refused"
        out.print(Text.assemble((f"{outcome}  ", "yellow"), f"{name} does not become {decision.alias}:"))
    for reason in decision.reasons:
        out.print(Text("  " + reason))
    if registry:
        out.print(Text(f"  in the registry {registry}, where {name} is a copy of {copy_of}"))


def _show_pending(out: Console, decision: Decision, name: str, registry: str | None, flow_run: str | None) -> None:
    identity, where = decision.pending[:8], f" --registry {registry}" if registry else ""
    out.print(Text.assemble(("waits  ", "cyan"), f"{name} may become {decision.alias}: decision {identity}"))
    out.print(Text(f"  fewstep approve {identity}{where}    or    fewstep reject {identity}{where}"))
    if flow_run:
        out.print(Text(f"  or resume the suspended flow run {flow_run} on its page"))


def _table(contest: dict, version: int) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for heading in (f"v{version}", f"v{contest['champion']}", "real", "excess ≤", "margin"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for contrast in contest["contrasts"]:
        name = f"{contrast['metric']}, class {contrast['group']}" if contrast["group"] else contrast["metric"]
        real = f"{contrast['real']['figure']:.4f}" if contrast.get("real") else ""
        table.add_row(name, f"{contrast['candidate']:.4f}", f"{contrast['champion']:.4f}", real,
                      f"{contrast['at_most']:+.4f}", f"{contrast['margin']:g}",
                      Text(contrast["verdict"], style=COLOURS[contrast["verdict"]]))
    return table


def _conditions(contest: dict) -> str:
    protocol, cost = contest["protocol"], contest["cost"]
    text = (f"{contest['n']} samples each from common noise, features {protocol['features']}, level "
            f"{contest['level']:g}; evaluations {cost['evaluations'][0]} against {cost['evaluations'][1]}, parameters "
            f"{cost['parameters'][0]:,} against {cost['parameters'][1]:,}")
    if "latency" in cost:
        low, high = cost["latency"]["interval"]
        text += f", {cost['latency']['ratio']:.3g} times the latency ({low:.3g} to {high:.3g})"
    return text
