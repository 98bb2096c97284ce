"""Processes that train together (docs/scale.md): two cells here, all of them in `make test-slow`."""

import re
import subprocess
import sys

import pytest

from tests.closure import ROOT
from tests.fewstep.training import scale_matrix

HERE = ["shard 2/LoRA/dmd2/dit", "shard 2/full/meanflow/dit"]


def tried(*names: str) -> None:
    """Does the cells in a process of its own, which forks; it must not have threads."""
    done = subprocess.run([sys.executable, "-m", "tests.fewstep.training.scale_matrix", "--only", *names], cwd=ROOT,
                          text=True, capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert sorted(re.findall(r"^(.*?)\s+ok$", done.stdout, re.MULTILINE)) == sorted(names)


def test_shards_resume_after_sigkill_bit_for_bit_and_make_the_student_of_one_process():
    tried(*HERE)


def test_cells_on_gpus_have_one_for_each_process_and_a_group_for_it_and_the_cpu(monkeypatch, tmp_path):
    opened, taken = [], []
    monkeypatch.setattr(scale_matrix.torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(scale_matrix, "default_device", lambda: taken.append("settled"))
    monkeypatch.setattr(scale_matrix.distributed, "init_process_group", lambda backend, **_: opened.append(backend))
    monkeypatch.setattr(scale_matrix.distributed, "barrier", lambda: None)
    scale_matrix.in_group(1, 2, tmp_path / "store", taken.append, "cuda")
    scale_matrix.in_group(1, 2, tmp_path / "store", taken.append, "cpu")
    assert opened == ["cpu:gloo,cuda:nccl", "gloo"] and taken == [1, "settled", 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", scale_matrix.FAMILIES)
@pytest.mark.parametrize("weights", scale_matrix.WEIGHTS)
def test_every_arrangement_of_every_recipe(kind, weights):
    tried(*(name for name in scale_matrix.names() if name.split("/")[1::2] == [weights, kind]))


def test_the_table_is_of_all_cells():
    told = (ROOT / "docs" / "scale.md").read_text().partition("\n# ")[0]
    rows = [line for line in told.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) * len(scale_matrix.ARRANGEMENTS) == len(scale_matrix.names())
    assert all(mark == "✓" for row in rows for mark in row.split(" | ")[3:6])
    commands = [re.search(r"`--only (\S+)` \|$", row)[1] for row in rows]
    assert scale_matrix.chosen_cells(commands) == scale_matrix.names()
    assert scale_matrix.chosen_cells(commands[:1]) == scale_matrix.names()[: len(scale_matrix.ARRANGEMENTS)]
