"""The command: its help, what it says without a project, and how little it loads."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flows.cli import COMMANDS, MODULES
from flows.command_help import help_of

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "prefect", "mlflow", "dvc", "boto3")


def fewstep(*arguments, cwd, **environment):
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | environment)


def test_help_lists_every_command_with_examples(tmp_path):
    done = fewstep("--help", cwd=tmp_path)
    assert done.returncode == 0 and all(f" {name} " in done.stdout for name in COMMANDS)
    assert "Examples" in done.stdout and max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_in_its_help(name):
    app = typer.Typer()
    importlib.import_module(MODULES[name]).add(app)
    found = typer.main.get_group(app).commands[name]
    assert help_of(MODULES[name], name) == found.help
    for command in [found, *getattr(found, "commands", {}).values()]:
        assert command.help, command.name
        if not getattr(command, "commands", None):
            assert "fewstep" in (command.epilog or ""), f"{name} {command.name}: no example"


def test_errors_without_a_project_are_one_line_or_json(tmp_path):
    done = fewstep("run", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: no params.yaml") and "Traceback" not in done.stderr
    done = fewstep("status", "--json", cwd=tmp_path)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["exit_code"] == 2
    done = fewstep("--debug", "run", cwd=tmp_path)
    assert "Traceback" in done.stderr
    done = fewstep("rnu", cwd=tmp_path)
    assert done.returncode == 2 and "run" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["run", "--help"], ["doctor", "--help"]], ids=" ".join)
def test_looking_is_quick(arguments):
    code = ("import sys; from flows.cli import app\n"
            "try: app(sys.argv[1:], standalone_mode=False)\n"
            "except Exception: pass\n"
            f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert done.stderr.strip() == "[]"


def test_help_imports_no_command():
    code = ("import sys; from flows.cli import app; app(['--help'], standalone_mode=False)\n"
            "light = ('tasks', 'tasks.tracking', 'tasks.tracking.redaction', 'tasks.tracking.redacted_logs',\n"
            "         'tasks.tracking.log_place')\n"
            "print([name for name in sys.modules if name.startswith(('flows.commands', 'tasks.', 'pydantic'))"
            " and name not in light], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stderr.strip() == "[]"
