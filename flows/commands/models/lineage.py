"""`fewstep lineage`: what a registered version came from, every byte hashed again; and who uses a hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from fewstep.util.errors import DataDiffers, NotAvailable, SettingsError
from flows.output import count, emit, examples, size
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.registry.lineage import Link

MARKS = {"verified": ("✓", "green"), "differs": ("✗", "red"), "unavailable": ("?", "yellow")}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("lineage", epilog=examples("fewstep lineage digits@champion", "fewstep lineage digits/3 --json",
                                            "fewstep lineage --uses 3f2a91c0"))
    def lineage(model: str = typer.Argument(None, metavar="MODEL@ALIAS", help="NAME, NAME@ALIAS or NAME/VERSION."),
                uses: str = typer.Option(None, "--uses", metavar="HASH",
                                         help="List the versions that used a file, output or commit with this hash."),
                as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Walk from a version to its weights, trajectories, teacher, raw data and commit, hashing every byte.

        Exit code 3 when something differs, 4 when something is not available here.
        """
        from tasks.registry import lineage as tracing  # MLflow takes seconds to load
        from tasks.registry.model_registry import Registry

        if (model is None) == (uses is None):
            raise SettingsError("give a model, such as digits@champion, or --uses HASH")
        registry = Registry(Workspace.find())
        if uses is not None:
            versions = tracing.uses(registry, uses)
            emit(versions, as_json, lambda out: _show_uses(out, uses, versions))
            return
        link = tracing.trace(registry, registry.resolve(model))
        state = tracing.state(link)
        emit({"state": state, **link.to_dict()}, as_json, lambda out: _show(out, link, state))
        if state != tracing.VERIFIED:
            raise typer.Exit({tracing.DIFFERS: DataDiffers, tracing.UNAVAILABLE: NotAvailable}[state].exit_code)


def _show(out: Console, link: Link, state: str) -> None:
    tree = Tree(_line(link), guide_style="dim")
    _grow(tree, link)
    out.print(tree)
    summary = {"verified": "every byte verified", "differs": "something differs from what was recorded",
               "unavailable": "not everything is available here"}[state]
    out.print(f"[{MARKS[state][1]}]{summary}[/]")


def _grow(tree: Tree, link: Link) -> None:
    for source in link.inputs:
        _grow(tree.add(_line(source)), source)


def _line(link: Link) -> Text:
    mark, colour = MARKS[link.state]
    text = Text.assemble((f"{mark} ", colour), (link.title, "bold"), (f"  {link.digest[:12]}", "cyan"))
    if link.files:
        text.append(f"  {count(link.files)} file{'s' * (link.files > 1)}, {size(link.bytes)}", "dim")
    if link.where and link.state == "verified":
        text.append(f"  {link.where}", "dim")
    if link.detail:
        text.append(f"  {link.detail}", colour if link.state != "verified" else "")
    for line in link.accepted:
        text.append(f"\n  {line}", "yellow")
    return text


def _show_uses(out: Console, text: str, versions: list[dict]) -> None:
    if not versions:
        out.print(f"no registered version uses {text}", markup=False)
    for entry in versions:
        aliases = "".join(f" @{alias}" for alias in entry["aliases"])
        out.print(f"{entry['version']}{aliases}", style="bold", markup=False)
        for use in entry["what"]:
            out.print(f"  {use}", markup=False, soft_wrap=True)
