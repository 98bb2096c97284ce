"""`make` on a new machine: one line while the environment is made, and the end of the log where that fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
# stands for a Python whose pip installs nothing, or fails
case "$1" in -c) exit 0; esac
echo "noise of python $*"
case "$1 $2" in "-m venv")
    mkdir -p .venv/bin
    printf '#!/bin/sh\\nfor i in $(seq 99); do echo "noise $i"; done; echo "warning" >&2\\n%s\\n' "$PIP" >.venv/bin/pip
    printf '#!/bin/sh\\necho ran\\n' >.venv/bin/fewstep
    chmod +x .venv/bin/*
esac
"""
LINE = "installing into .venv: some minutes, log in .venv/install.log"


@pytest.fixture
def make(tmp_path):
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(target: str, pip: str = "") -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(["make", target, "PYTHON=./python"], cwd=tmp_path, text=True,
                              capture_output=True, env=environment | {"PIP": pip})  # fmt: skip

    return run


def test_one_line_and_then_its_own_output(make, tmp_path):
    done = make("run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [LINE, ".venv/bin/fewstep run", "ran"] and done.stderr == ""
    log = (tmp_path / ".venv" / "install.log").read_text()
    assert log.count("noise 99") == 2 and "warning" in log
    assert make("run").stdout.splitlines() == [".venv/bin/fewstep run", "ran"]


def test_a_failure_shows_the_end_of_the_log_and_stops_make(make, tmp_path):
    done = make("run", pip="echo 'ERROR: no such package'; exit 3")
    assert done.returncode == 2 and done.stdout.splitlines() == [LINE]
    assert "ERROR: no such package" in done.stderr and "all that was said is in .venv/install.log" in done.stderr
    assert "noise 99" in done.stderr and "noise 1\n" not in done.stderr
    assert not (tmp_path / ".venv" / "installed").exists()
    assert make("run").returncode == 0


def test_the_profile_that_is_tested_is_chosen_by_one_variable():
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def command(*arguments: str) -> str:
        return subprocess.run(["make", "-n", "test", *arguments], cwd=ROOT, capture_output=True, text=True,
                              check=True, env=outside).stdout.splitlines()[-1].strip()  # fmt: skip

    assert command() == ("FEWSTEP_TEST_PROFILE=local .venv/bin/python -m pytest -n auto --durations 25 --timeout 1500 "
                         "--timeout-method thread")
    server = command("PROFILE=server")
    assert server.startswith("FEWSTEP_TEST_PROFILE=server .venv/bin/python -m pytest ")
    assert server.endswith('-m "both_profiles and not (local or slow or faults or gpu)"')
    refused = subprocess.run([sys.executable, "-m", "pytest", "--co", "-q", __file__], cwd=ROOT, capture_output=True,
                             text=True, env=dict(outside, FEWSTEP_TEST_PROFILE="cluster"))  # fmt: skip
    assert refused.returncode == 4 and "PROFILE=cluster: expected local or server" in refused.stderr
