"""A signal in training is acted on when a checkpoint of the step under way is written: nothing is computed twice, and
the resumed run is the undisturbed one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewstep.training import RunOptions
from fewstep.training.teacher_training import teacher_recipe, train_teacher
from tests.fewstep.training.small import BATCH, data, finish, run, tiny

ROOT = Path(__file__).parents[3]
STEPS = 24
CHILD = """
import os, signal, sys, time
import torch
from pathlib import Path
from fewstep.training import round_trainer
from fewstep.training.round_trainer import RoundTrainer
from tests.fewstep.training import test_interrupted

torch.set_num_threads(1)
round_trainer.REPORTS = 4
what, folder, number, at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
step = RoundTrainer._step

def interrupted_step(self, index, role, figures):
    if index == at:
        os.kill(os.getpid(), number)
        sum(range(10**5))   # where it would have been acted on
    step(self, index, role, figures)
    print("step", index, flush=True)

RoundTrainer._step = interrupted_step
test_interrupted.train(what, folder)
"""


def train(what: str, folder: Path, heard: dict | None = None) -> dict[str, torch.Tensor]:
    """A student's round of 24 steps, with checkpoints too rare to matter, or a teacher's; `heard`: reports by step."""

    def on_progress(done, total, figures):
        if heard is not None:
            heard[done // BATCH] = figures

    if what == "teacher":
        options = RunOptions(STEPS * BATCH, seed=5, folder=folder, checkpoint_images=10**9)
        images = ImagesOf(data())
        found = train_teacher(teacher_recipe(1e-3, STEPS * BATCH, BATCH, 1, 0.1, 0.1), images, options,
                              channels=(8,), layers=1, groups=(), on_progress=on_progress)  # fmt: skip
        return dict(found.state_dict())
    return finish(run(tiny(what), folder, STEPS * BATCH, checkpoint_images=10**9), on_progress)


class ImagesOf:
    """A data source with what a training of a teacher asks of images."""

    shape, num_classes = (1, 8, 8), 3

    def __init__(self, source):
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __len__(self):
        return 40


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def interrupted(what: str, folder: Path, number: signal.Signals, at: int) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", CHILD, what, str(folder), str(int(number)), str(at)], cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)  # fmt: skip


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("step-*.json"))]


@pytest.mark.parametrize(
    ("what", "number", "at"),
    [pytest.param("dmd2", signal.SIGINT, 1, marks=pytest.mark.slow), ("dmd2", signal.SIGTERM, 7),
     ("kd", signal.SIGHUP, 0), pytest.param("teacher", signal.SIGTERM, 2, marks=pytest.mark.slow)],
)
def test_the_step_under_way_is_saved_and_resumed_as_if_undisturbed(what, number, at, tmp_path, monkeypatch):
    from fewstep.training import round_trainer

    monkeypatch.setattr(round_trainer, "REPORTS", 4)  # a report every six steps: signals come between two of them
    undisturbed, resumed = {}, {}
    straight = train(what, tmp_path / "straight", undisturbed)

    done = interrupted(what, tmp_path / "broken", number, at)
    assert done.returncode == (1 if number == signal.SIGINT else -number), done.stderr
    assert done.stdout.split()[-1] == str(at)
    (saved,) = records(tmp_path / "broken")
    assert saved["step"] == at + 1 and not saved["done"]

    found = train(what, tmp_path / "broken", resumed)
    assert found.keys() == straight.keys() and all(torch.equal(found[name], straight[name]) for name in found)
    assert resumed == {step: figures for step, figures in undisturbed.items() if step > at}


REPORTING = """
plain = test_interrupted.train

def train(what, folder, heard=None):
    class Told(dict):
        def __setitem__(self, done, figures):   # as a report of this step is being told
            if done == at + 1:
                os.kill(os.getpid(), number)
                sum(range(10**5))

    plain(what, folder, Told())

test_interrupted.train, RoundTrainer._step = train, step
"""


def test_a_signal_that_comes_while_a_report_is_told_waits_for_the_next_step(tmp_path, monkeypatch):
    from fewstep.training import round_trainer

    monkeypatch.setattr(round_trainer, "REPORTS", 4)
    straight = train("kd", tmp_path / "straight")
    end = "test_interrupted.train(what, folder)"
    child = CHILD.replace(end, REPORTING + end)
    done = subprocess.run([sys.executable, "-c", child, "kd", str(tmp_path / "broken"), str(int(signal.SIGTERM)), "5"],
                          cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == -signal.SIGTERM, done.stderr
    (saved,) = records(tmp_path / "broken")
    assert saved["step"] == 7 and not saved["done"]
    found = train("kd", tmp_path / "broken")
    assert all(torch.equal(found[name], straight[name]) for name in found)


BEHIND = """
import threading
from fewstep.training.saving.checkpoints import Checkpoints
from fewstep.util.background import Background

asked, store, wait, start = threading.Event(), Checkpoints._store, Background.wait, Background.start

def held_store(self, step, record, tensors):
    if threading.current_thread() is not threading.main_thread():
        asked.wait()    # written when it is waited for, not before
    store(self, step, record, tensors)

def noted_wait(self):
    asked.set()
    wait(self)

def noted_start(self, work):
    wait(self)
    asked.clear()
    start(self, work)
    print("behind", flush=True)

Checkpoints._store, Background.wait, Background.start = held_store, noted_wait, noted_start
"""


def test_a_signal_waits_for_the_checkpoint_under_way_and_for_its_own(tmp_path):
    straight = train("kd", tmp_path / "straight")
    code = CHILD.replace("test_interrupted.train(what, folder)", f"""{BEHIND}
from tests.fewstep.training.small import BATCH, finish, run, tiny
finish(run(tiny(what), folder, test_interrupted.STEPS * BATCH, checkpoint_images=6 * BATCH))
""")
    done = subprocess.run([sys.executable, "-c", code, "kd", str(tmp_path / "broken"), str(int(signal.SIGTERM)), "8"],
                          cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout.split() == [*_steps(0, 6), "behind", *_steps(6, 9)]
    assert [record["step"] for record in records(tmp_path / "broken")] == [6, 9]
    found = train("kd", tmp_path / "broken")
    assert all(torch.equal(found[name], straight[name]) for name in found)


def _steps(first: int, end: int) -> list[str]:
    return [word for step in range(first, end) for word in ("step", str(step))]


def test_a_second_interrupt_waits_for_nothing(tmp_path):
    code = CHILD.replace("sum(range(10**5))", "os.kill(os.getpid(), signal.SIGINT)")
    done = subprocess.run([sys.executable, "-c", code, "kd", str(tmp_path), str(int(signal.SIGINT)), "3"], cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode and done.stderr.strip().endswith("KeyboardInterrupt")
    assert done.stdout.split()[-1] == "2" and not records(tmp_path)
