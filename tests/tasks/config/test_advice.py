"""What is said before any work of settings that hold."""

import json
import struct
from pathlib import Path

import pytest

from fewstep.util.config import parse
from tasks.config.advice import advice
from tasks.config.schema import Settings
from tests.project import Project
from tests.tasks.config.test_preflight import teacher

RECIPE = "rounds:\n  - terms:\n      - {term: regression, at: noise}\n"


def told(root: Path, **distill) -> list[str]:
    return advice(root, parse(Settings, {"teacher": {"source": "teacher"}, "distill": distill}, "params.yaml"))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    teacher(tmp_path / "teacher", None)
    monkeypatch.setattr("tasks.config.advice.LARGE", 0)
    (tmp_path / "silent.yaml").write_text(RECIPE)
    return tmp_path


def test_a_large_teacher_at_the_rate_of_small_networks_is_told_of(root):
    (line,) = told(root, recipe="lcm")
    assert "lcm" in line and "1 parameters" in line and "distill.preset: published" in line and "distill.lr" in line
    assert len(told(root, recipe="silent.yaml", preset="published")) == 1   # whose paper tells no settings


@pytest.mark.parametrize("chosen", [{"recipe": "lcm", "preset": "published"}, {"recipe": "lcm", "lr": 1e-6},
                                    {"recipe": "silent.yaml", "lr": 1e-5}])
def test_nothing_is_said_where_the_rate_was_chosen(root, chosen):
    assert told(root, **chosen) == []


def test_nothing_is_said_of_a_small_teacher_or_of_one_that_is_trained_here(root, monkeypatch):
    assert advice(root, Settings()) == []
    monkeypatch.undo()
    assert told(root, recipe="lcm") == []


def test_a_dry_run_says_it(tmp_path):
    folder, count = teacher(tmp_path / "teacher", 10), 60_000_000
    head = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with open(folder / "unet" / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + 4 * count)
    project = Project(tmp_path / "project")
    words = ("run", "--dry-run", "--set", f"teacher.source={folder}")
    assert "warning: recipe kd is set up for small networks" in project.check(*words)
    assert json.loads(project.check(*words, "--json", "--set", "distill.lr=1e-5"))["advice"] == []
