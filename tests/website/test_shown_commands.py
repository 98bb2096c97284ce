"""Every command in the documents and in the help is there, with its options, and every setting that it changes."""

from __future__ import annotations

import importlib.util
import re

import pytest
import typer

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from flows.cli import COMMANDS, app
from tasks.config import params_file
from tasks.config.schema import Settings
from tests.project import ROOT
from tests.website.shell_blocks import PAGES, Block, blocks
from website import commands

OTHERS = {"cd", "git", "dvc", "prefect", "ray", "systemctl"}    # programs that are not ours
TARGETS = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
DVC = {"checkout", "repro", "remote", "status", "metrics", "plots"}
PREFECT = {"worker", "work-pool", "deployment", "deploy"}


def parse_fewstep(words: list[str]) -> None:
    """What the application makes of the words, short of calling the command. Raises for what it would refuse."""
    root = typer.main.get_command(app)
    context = root.make_context("fewstep", words)
    while getattr(context, "_protected_args", None) or context.args:
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(context.command, "resolve_command"):
            break
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    on = context.params.get("on")
    sets = [*(context.params.get("sets") or []), *([f"compute.on={on}"] if isinstance(on, str) else [])]
    if sets:
        data = params_file.apply(params_file.read(ROOT / "params.yaml"), [text for text in sets])
        parse(Settings, data, "--set")


def check(words: list[str]) -> None:
    program, *rest = words
    while re.fullmatch(r"[A-Z_]+=.*", program):     # variables of this one command
        program, *rest = rest
    if program == "fewstep":
        parse_fewstep(rest)
    elif program == "make":
        assert rest[0] in TARGETS, f"make {rest[0]}: the Makefile has no such target"
    elif program == "sbatch":     # what follows the script is given to `fewstep run`
        script = next(place for place, word in enumerate(rest) if word.endswith("run.sbatch"))
        parse_fewstep(["run", *rest[script + 1 :]])
    elif program == "python":
        assert rest[0] == "-m" and importlib.util.find_spec(rest[1]), f"{rest[1]} is no module"
    else:
        assert program in OTHERS, f"{program}: what is this?"
        assert program not in ("dvc", "prefect") or rest[0] in (DVC | PREFECT), f"{program} {rest[0]}"


ALL = [(f"{page.relative_to(ROOT)}: {' '.join(words)}", words) for page in PAGES for block in blocks(page)
       for words in block.commands]


def test_the_pages_show_commands():
    assert len(ALL) > 90 and sum(block.tried for page in PAGES for block in blocks(page)) >= 8


@pytest.mark.parametrize("words", [words for _, words in ALL], ids=[name for name, _ in ALL])
def test_a_command_of_the_documents_is_there_as_it_is_shown(words):
    check(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_there(name):
    root = typer.main.get_command(app)
    told = "\n".join(commands._told(commands.command(root, typer.Context(root), name), f"fewstep {name}",
                                    typer.Context(root)))
    examples = re.findall(r"```shell\n(.*?)```", told, re.DOTALL)
    assert examples or name == "stage" or "shell" not in told
    for text in examples:
        for words in Block(ROOT, text, False).commands:
            check(words)


@pytest.mark.parametrize(("line", "error"), [
    ("fewstep runn", Exception), ("fewstep run --isolate", Exception), ("fewstep promote", Exception),
    ("fewstep schedule lst", Exception), ("fewstep run --set distil.images=1", SettingsError),
    ("make documents", AssertionError), ("python -m fewstep.nothing", AssertionError), ("rm -rf /", AssertionError),
])
def test_a_command_that_is_not_there_would_be_found(line, error):
    (words,) = Block(ROOT, line, False).commands
    with pytest.raises(error):
        check(words)


def test_lines_are_taken_apart_as_a_shell_does():
    text = "fewstep run \\\n    --set 'a=[1, 2]'   # a remark\ncd x && fewstep status | head\n"
    assert Block(ROOT, text, False).commands == [
        ["fewstep", "run", "--set", "a=[1, 2]"], ["cd", "x"], ["fewstep", "status"], ["head"]]
