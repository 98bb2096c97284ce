"""The help of a command read from the source of its module: `fewstep --help` lists them all and imports none."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

ROOT = Path(__file__).parent.parent


def help_of(module: str, command: str) -> str:
    """The help text of `command`: the docstring of the function of that name inside the module's `add`, or, for a group
    of commands, the `help` of the Typer object that `add` makes.

    Raises:
        LookupError: `add` has neither.
    """
    path = (ROOT / Path(*module.split("."))).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    add = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "add")
    for node in ast.walk(add):
        if isinstance(node, ast.FunctionDef) and node.name == command:
            return inspect.cleandoc(ast.get_docstring(node) or "")
    for node in ast.walk(add):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Typer":
            for keyword in node.keywords:
                if keyword.arg == "help":
                    return ast.literal_eval(keyword.value)
    raise LookupError(f"{path}: no help for the command {command}")
