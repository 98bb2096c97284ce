"""The reference of the commands, from the typer application."""

from __future__ import annotations

import re
from collections.abc import Iterator

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from fewstep.util.errors import SettingsError
from flows.cli import PANELS, app

_HEAD = """# Commands

What `fewstep --help` and `fewstep COMMAND --help` say. Every command that answers takes `--json`; with `--debug` errors
have tracebacks. Exit codes: 0 done, 1 failed (finished work is kept), 2 settings or usage, 3 data differs, 4 not
available here, 5 busy, 130 interrupted.
"""


def page() -> str:
    """The page, in Markdown: every command by the panels of `fewstep --help`."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="fewstep")
    lines = [_HEAD]
    for panel, (_, names) in PANELS.items():
        lines += [f"## {panel}", ""]
        for name in names:
            lines += _told(command(root, context, name), f"fewstep {name}", context)
    return "\n".join(lines)


def command(root: TyperGroup, context: typer.Context, name: str) -> TyperCommand | TyperGroup:
    """A command of the application, its module loaded. Raises SettingsError for one that there is not."""
    if name not in root.list_commands(context):
        raise SettingsError(f"there is no command {name!r}")
    return root.resolve_command(context, [name])[1]


def _told(one: TyperCommand | TyperGroup, words: str, parent: typer.Context, level: int = 3) -> Iterator[str]:
    context = typer.Context(one, parent=parent, info_name=words.split()[-1])
    yield from ("#" * level + f" `{words}`", "", _plain(one.help), "")
    yield from (f"    {_usage(words, one, context)}", "")
    rows = [row for row in (_row(item, context) for item in one.params) if row]
    if rows:
        yield from ("| option | meaning |", "| :-- | :-- |", *rows, "")
    examples = [line.strip().removeprefix("[dim]$[/] ") for line in (one.epilog or "").splitlines()
                if "[dim]$[/]" in line]
    if examples:
        yield from ("```shell", *(line.replace("\\[", "[") for line in examples), "```", "")
    for name, inner in (one.commands.items() if isinstance(one, TyperGroup) else ()):
        yield from _told(inner, f"{words} {name}", context, level + 1)


def _usage(words: str, one: TyperCommand | TyperGroup, context: typer.Context) -> str:
    return " ".join([words, *one.collect_usage_pieces(context)])


def _row(item: TyperArgument | TyperOption, context: typer.Context) -> str:
    record = item.get_help_record(context)
    if record is None or item.name == "help":
        return ""
    names, text = record
    return f"| `{names}` | {_plain(text)} |".replace("\\[", "[")


def _plain(text: str | None) -> str:
    """A help text without rich's marks; a line break within a paragraph is none, a bar is no cell's end."""
    plain = re.sub(r"\[/?(?:bold|dim|cyan|yellow|red|green)?\]", "", text or "").strip()
    return re.sub(r"(?<!\n)\n(?!\n)", " ", plain).replace("|", "\\|")
