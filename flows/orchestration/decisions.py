"""How a decision about a version looks in the terminal, and whom Prefect tells about it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from uuid import uuid4

from tasks.registry.audit_log import Entry
from tasks.storage.workspace import Workspace

COLOURS = {"better": "green", "within": "default", "worse": "red", "unclear": "yellow", "too few samples": "yellow"}


def registry_of(workspace: Workspace, store: str | None):
    """The registry of the checkout's settings, or the one in another store."""
    from tasks.registry import copy_version
    from tasks.registry.model_registry import Registry

    return Registry(workspace) if store is None else copy_version.open_store(workspace, store)


@contextlib.contextmanager
def carried(store: str | None) -> Iterator[str | None]:
    """The name of an environment variable with this address, which may hold a secret, to go past Prefect's database."""
    if store is None:
        yield None
        return
    name = f"FEWSTEP_PROMOTION_STORE_{uuid4().hex}"     # of this promotion alone: another thread may have its own
    os.environ[name] = store
    try:
        yield name
    finally:
        del os.environ[name]


def show(out, decision: dict, *, dry: bool = False) -> None:
    """The table of figures, the decision, and what to do next."""
    from rich.text import Text

    contest = decision["figures"].get("contest")
    if contest:
        out.print(_table(contest, decision["version"]))
        out.print(Text(_conditions(contest), style="dim"))
    for figure, value in decision["figures"].get("floors", {}).items():
        out.print(Text(f"floor {figure}: " + ("not measured" if value is None else f"{value:.4g}")))
    name, former = f"{decision['model']}/{decision['version']}", decision["former"]
    if decision["pending"]:
        identity = decision["pending"][:8]
        out.print(Text.assemble(("waits  ", "cyan"), f"{name} may become {decision['alias']}: decision {identity}"))
        where = f" --registry {decision['registry']}" if "registry" in decision else ""
        out.print(Text(f"  fewstep approve {identity}{where}    or    fewstep reject {identity}{where}"))
        if decision.get("run"):
            out.print(Text(f"  or resume the suspended flow run {decision['run']} on its page"))
    elif decision["promoted"] and dry:
        out.print(Text.assemble(("would promote  ", "green"), f"{name} to {decision['alias']}; nothing was changed"))
    elif decision["promoted"]:
        after = f" (was version {former}, now @previous)" if former and decision["alias"] == "champion" else ""
        out.print(Text.assemble(("promoted  ", "green"), f"{name} is {decision['model']}@{decision['alias']}{after}"))
    else:
        said = "would refuse" if dry else "refused"
        out.print(Text.assemble((f"{said}  ", "yellow"), f"{name} does not become {decision['alias']}:"))
    for reason in decision["reasons"]:
        out.print(Text("  " + reason))
    if "registry" in decision:
        out.print(Text(f"  in the registry {decision['registry']}, where {name} is a copy of {decision['copy_of']}"))


def _table(contest: dict, version: int):
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 1), pad_edge=False)
    made.add_column("figure", no_wrap=True)
    for heading in (f"v{version}", f"v{contest['champion']}", "real", "excess ≤", "margin"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for one in contest["contrasts"]:
        name = f"{one['metric']}, class {one['group']}" if one["group"] else one["metric"]
        real = f"{one['real']['figure']:.4f}" if one.get("real") else ""
        made.add_row(name, f"{one['candidate']:.4f}", f"{one['champion']:.4f}", real, f"{one['at_most']:+.4f}",
                     f"{one['margin']:g}", Text(one["verdict"], style=COLOURS[one["verdict"]]))
    return made


def _conditions(contest: dict) -> str:
    protocol, cost = contest["protocol"], contest["cost"]
    text = (f"{contest['n']} samples each from common noise, features {protocol['features']}, level "
            f"{contest['level']:g}; evaluations {cost['evaluations'][0]} against {cost['evaluations'][1]}, parameters "
            f"{cost['parameters'][0]:,} against {cost['parameters'][1]:,}")
    if "latency" in cost:
        low, high = cost["latency"]["interval"]
        text += f", {cost['latency']['ratio']:.3g} times the latency ({low:.3g} to {high:.3g})"
    return text


def announce(workspace: Workspace, model: str, entry: Entry) -> None:
    """Tells a permanent Prefect server, where one is known: an event `fewstep.<event>`, which automations can wait for;
    a suspended run that asked for this decision is ended.

    Telling is no part of the decision: a server that is away or refuses is passed over, with a line in the log.
    """
    from flows.orchestration.prefect_api import answers, prefect_environment, serving
    from flows.runs.log_capture import logs_to

    found = serving(workspace)
    address = os.environ.get("PREFECT_API_URL") or (found and f"{found['url']}/api")
    if not address or not answers(address.rstrip("/") + "/health"):
        return
    os.environ.update(prefect_environment(workspace, address))
    with logs_to(workspace.shared / "logs" / "promotion.log"):
        try:
            from flows.orchestration.approval_flow import settle

            emit(model, entry)
            if entry.closes:
                settle(entry.closes, f"{entry.event} by {entry.who}")
        except Exception:
            logging.getLogger("prefect").exception("Prefect was not told of %s", entry.event)


def emit(model: str, entry: Entry) -> None:
    """Sends the event to the server that this process talks to, and waits until it is sent.

    Its name is `fewstep.<event>` (promoted, refused, rolled-back, pending, rejected, expired, overtaken), its resource
    `fewstep.model.<registered model>` with the labels `fewstep.version` and `fewstep.alias`, its payload the record's
    entry. Automations depend on these: they do not change.
    """
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    emit_event(event=f"fewstep.{entry.event.replace(' ', '-')}",
               resource={"prefect.resource.id": f"fewstep.model.{model}", "prefect.resource.name": model,
                         "fewstep.version": str(entry.to), "fewstep.alias": entry.alias},
               payload=entry.to_dict())
    EventsWorker.drain_all(timeout=5)


def emit_of_run(workspace: Workspace, registered: dict) -> None:
    """The event of what was decided about the `version` of `model` that a run registered, if something was."""
    from tasks.registry.aliases import history
    from tasks.registry.model_registry import Registry

    entries = history(Registry(workspace), registered["model"])
    if entries and entries[-1].to == registered["version"] and entries[-1].event in ("promoted", "refused"):
        emit(registered["model"], entries[-1])
