"""Which errors are tried again; where log lines go; what profiles ask for; what the command says without a project."""

import errno
import logging
import subprocess
import sys
import warnings

import pytest

from fewstep.util.errors import CorruptData, DiskFull, NonFinite, NotAvailable, SettingsError
from flows.cli import COMMANDS, MODULES
from flows.runs import profiles
from flows.runs.log_capture import logs_to


@pytest.mark.parametrize(("error", "again"), [
    (ConnectionResetError(), True), (TimeoutError(), True), (OSError(errno.ESTALE, "stale"), True),
    (RuntimeError("database is locked"), True), (BrokenPipeError(), True),
    (OSError(errno.ENOSPC, "no space"), False), (ValueError("bug"), False), (SettingsError("bad"), False),
    (CorruptData("bits"), False), (NonFinite("nan"), False), (DiskFull("full"), False), (NotAvailable("away"), False),
])
def test_only_transient_errors_are_tried_again(error, again):
    from flows.orchestration.unit_executor import is_transient

    assert is_transient(error) is again
    error.tried_again = True
    assert not is_transient(error)


def test_many_units_share_tasks():
    from flows.orchestration.unit_executor import _GROUPS, MOST_TASKS, PrefectExecutor

    executor = PrefectExecutor("run", "stage")
    units = [f"{number:05d}" for number in range(1234)]
    names = executor._groups(units)
    assert len(names) <= MOST_TASKS and len(set(names)) == len(names)
    assert [unit for name in names for unit in _GROUPS[("run", "stage", name)]] == units
    assert executor._groups(units[:3]) == units[:3]
    _GROUPS.clear()


def test_what_libraries_say_goes_into_the_file(tmp_path, capfd):
    path = tmp_path / "a" / "log"
    logger = logging.getLogger("uvicorn.something")
    handler = logging.StreamHandler()
    logging.getLogger("uvicorn").addHandler(handler)
    try:
        with logs_to(path):
            logger.error("an error of a library")
            warnings.warn("a warning of a library", stacklevel=1)
            print("a print of a library")
            print("100%|####", file=sys.stderr)
        assert handler in logging.getLogger("uvicorn").handlers
    finally:
        logging.getLogger("uvicorn").removeHandler(handler)
    text = path.read_text()
    for words in ("an error of a library", "a warning of a library", "a print of a library", "100%"):
        assert words in text
    assert capfd.readouterr() == ("", "")


def test_profiles_are_data_and_name_what_is_missing(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert profiles.check("local").environment == {}
    with pytest.raises(SettingsError, match="profile 'server' needs PREFECT_API_URL in the environment"):
        profiles.check("server")
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4200/api")
    profiles.check("server")
    with pytest.raises(SettingsError, match="nowhere.yaml"):
        profiles.load("nowhere")


def fewstep(*arguments, cwd, **environment):
    import os
    from pathlib import Path

    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": root, "COLUMNS": "80"} | environment)


def test_help_lists_every_command_with_examples(tmp_path):
    done = fewstep("--help", cwd=tmp_path)
    assert done.returncode == 0 and all(f" {name} " in done.stdout for name in COMMANDS)
    assert "Examples" in done.stdout and max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_in_its_help(name):
    import importlib

    import typer

    app = typer.Typer()
    importlib.import_module(MODULES[name]).add(app)
    found = typer.main.get_group(app).commands[name]
    for command in [found, *getattr(found, "commands", {}).values()]:
        assert command.help, command.name
        if not getattr(command, "commands", None):
            assert "fewstep" in (command.epilog or ""), f"{name} {command.name}: no example"


def test_errors_without_a_project_are_one_line_or_json(tmp_path):
    done = fewstep("run", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: no params.yaml") and "Traceback" not in done.stderr
    done = fewstep("status", "--json", cwd=tmp_path)
    import json

    assert done.returncode == 2 and json.loads(done.stdout)["error"]["exit_code"] == 2
    done = fewstep("--debug", "run", cwd=tmp_path)
    assert "Traceback" in done.stderr
    done = fewstep("rnu", cwd=tmp_path)
    assert done.returncode == 2 and "run" in done.stderr


def test_doctor_names_what_is_wrong_and_how_to_mend_it(tmp_path, monkeypatch):
    import os

    from flows.runs.doctor import examine
    from tasks.storage.workspace import Workspace

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "params.yaml").write_text("name: digits\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "constraints.txt").write_text("rich==0.0.1  # an old one\nnot-installed==1.0\n")
    found = {item.topic: item for item in examine(Workspace(tmp_path))}
    assert found["git"].level == "error" and "git init" in found["git"].mend
    assert found["dvc"].level == "error"
    assert found["packages"].level == "warning" and "rich" in found["packages"].text
    assert found["MLflow"].level == "error" and "does not answer" in found["MLflow"].text
    assert found["Prefect"].level == found["folders"].level == found["params.yaml"].level == "ok"
    (tmp_path / "params.yaml").write_text("nmae: digits\n")
    found = {item.topic: item for item in examine(Workspace(tmp_path), servers=False)}
    assert found["settings"].level == "error" and "did you mean 'name'" in found["settings"].text
    assert os.listdir(tmp_path) and not (tmp_path / ".fewstep" / "runs").exists()
