"""Interrupted and continued is the same as undisturbed, bit for bit; what does not fit is refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from fewstep.training import api
from fewstep.training.saving import checkpoints
from fewstep.training.saving.checkpoints import FORMAT
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import DataDiffers, DiskFull, SettingsError
from fewstep.util.files import TEMPORARY
from fewstep.util.hashing import sha256_file
from tests import children
from tests.fewstep.training import small
from tests.fewstep.training.small import BATCH, RECIPES, checkpoint_bytes, finish, run, teacher, tiny

ROOT = Path(__file__).parents[3]


class Stopped(Exception):
    pass


def stop_after(images: int):
    """Interrupts the first round in which so many images are done."""

    def on_progress(done, total, figures):
        if done >= images:
            raise Stopped

    return on_progress


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# every term, every way of rounds and every kind of student that has a state of its own
RESUMED = [*RECIPES, "scm", "meanflow", "twinflow", "mmd-ddm", "pi-flow", "swiftbrush-v2", "boot", "laptop-diff",
           "plug-and-play", "lcm-lora"]  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_two_n_images_interrupted_at_n_equal_two_n_images(name, tmp_path):
    recipe, often = tiny(name), {"checkpoint_images": 2 * BATCH}
    straight = finish(run(recipe, tmp_path / "straight", **often))
    half = max(recipe.images_of(k, 24 * BATCH) for k in range(len(recipe.rounds))) // 2
    with pytest.raises(Stopped):
        finish(run(recipe, tmp_path / "broken", **often), stop_after(half))
    before = checkpoint_bytes(tmp_path / "broken")
    assert before and before.keys() != checkpoint_bytes(tmp_path / "straight").keys()
    assert same(finish(run(recipe, tmp_path / "broken", **often)), straight)
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "straight")
    start = teacher().state_dict()
    assert not same(straight, {n: v for n, v in start.items()})


def test_interrupted_again_and_again_in_any_round_is_still_the_same(tmp_path):
    straight = finish(run(tiny("reflow"), tmp_path / "straight"))
    for images in (1, 3, 7):
        job = run(tiny("reflow"), tmp_path / "broken", checkpoint_images=2 * BATCH)
        with pytest.raises(Stopped):
            job.student_after(0, stop_after(images * BATCH))
    for images in (5, 12):  # the second round; the last time after its last step
        job = run(tiny("reflow"), tmp_path / "broken", checkpoint_images=2 * BATCH)
        job.student_after(0)
        with pytest.raises(Stopped):
            job.student_after(1, stop_after(images * BATCH))
    assert same(finish(run(tiny("reflow"), tmp_path / "broken")), straight)


@pytest.mark.parametrize("name", ["dmd2"])
def test_killed_and_continued_is_the_same(name, tmp_path):
    straight = finish(run(tiny(name), tmp_path / "straight"))
    command = [sys.executable, "-m", "tests.fewstep.training.small", name, str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    for line in process.stdout:
        if int(line) >= 12 * BATCH:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert same(finish(run(tiny(name), tmp_path / "killed")), straight)
    assert not list((tmp_path / "killed").rglob(f"{TEMPORARY}*"))


def distilled(folder: Path | None, on_progress=lambda *_: None) -> dict:
    """Weights of the student that distill() makes in five rounds of six batches; on_progress: round, images done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "RunOptions", partial(api.RunOptions, checkpoint_images=2 * BATCH))
        patch.setattr(api, "_printer", lambda _, index: lambda done, *_: on_progress(index + 1, done))
        student = api.distill(tiny("progressive"), teacher(), data=small.data(), images=30 * BATCH, seed=5,
                              device="cpu", workdir=folder, progress=True)  # fmt: skip
    return student.denoiser.state_dict()


def die_in_round_two(folder: Path) -> None:
    def on_progress(number, done):
        if (number, done) == (2, 5 * BATCH):
            while not list(folder.glob("round-2/checkpoints/step-*4.json")):    # a thread writes it
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    distilled(folder, on_progress)


def test_a_call_killed_in_a_later_round_continues_there_and_ends_in_the_same_bits(tmp_path):
    killed = children.context().Process(target=die_in_round_two, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    heard = []
    found = distilled(tmp_path, lambda *where: heard.append(where))
    assert heard[:2] == [(2, 5 * BATCH), (2, 6 * BATCH)] and {number for number, _ in heard} == {2, 3, 4, 5}
    assert same(found, distilled(None))


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    straight = finish(run(tiny("dmd2"), tmp_path / "straight", checkpoint_images=10**9))
    go, write, seen = threading.Event(), checkpoints.write_tensors, []

    def held(*arguments):
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(600)
            seen.append("written")
        return write(*arguments)

    def on_progress(done, total, figures):
        seen.append(done // BATCH)
        if done == 18 * BATCH:
            go.set()

    monkeypatch.setattr(checkpoints, "write_tensors", held)
    found = finish(run(tiny("dmd2"), tmp_path / "beside", checkpoint_images=12 * BATCH), on_progress)
    assert seen == [6, 12, 18, "written", 24] and same(found, straight)
    kept = [checkpoint_bytes(tmp_path / name) for name in ("straight", "beside")]
    last = max(kept[0])
    assert kept[0][last] == kept[1][last] and len(kept[1]) == 2


@pytest.mark.parametrize("at", [1, 2])
def test_what_a_thread_meets_while_writing_ends_the_training_and_keeps_the_former_checkpoint(at, tmp_path, monkeypatch):
    straight = finish(run(tiny("kd"), tmp_path / "straight"))
    write, calls = checkpoints.write_tensors, []

    def full(path, tensors):
        calls.append(threading.current_thread() is threading.main_thread())
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "no space")
        return write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(DiskFull, match="disk full while writing .*step-0"):
        finish(run(tiny("kd"), tmp_path / "full"))
    assert calls == [False] * at and len(checkpoint_bytes(tmp_path / "full")) == at - 1
    monkeypatch.undo()
    assert same(finish(run(tiny("kd"), tmp_path / "full")), straight)


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    straight = finish(run(tiny("kd"), tmp_path))

    def never(*_):
        raise AssertionError("trained again")

    assert same(finish(run(tiny("kd"), tmp_path), never), straight)


def broken(folder: Path) -> Path:
    with pytest.raises(Stopped):
        finish(run(tiny("kd"), folder), stop_after(18 * BATCH))
    return folder / "round-1" / "checkpoints"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": tiny("kd", lr=1e-4)}, "optimiser.lr was 0.001, is 0.0001"),
        ({"recipe": tiny("kd", accumulate=2)}, "training.accumulate was 1, is 2"),
        ({"seed": 6}, "seed was 5, is 6"),
        ({"images": 30 * BATCH}, "images was"),
        ({"teacher": teacher(seed=1)}, "start was"),
        ({"pairs": small.Pairs(spoil=0)}, "sources was"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_kept(change, named, tmp_path):
    checkpoints = broken(tmp_path)
    before = checkpoint_bytes(tmp_path)
    with pytest.raises(SettingsError, match=named):
        finish(run(change.pop("recipe", tiny("kd")), tmp_path, **change))
    assert checkpoint_bytes(tmp_path) == before and checkpoints.is_dir()


def test_another_batch_is_refused(tmp_path):
    broken(tmp_path)
    with pytest.raises(SettingsError, match="training.batch was 8, is 4"):
        finish(run(tiny("kd").override(small.Overrides(batch=4)), tmp_path))


def test_another_machine_continues_with_a_warning_and_both_are_recorded(tmp_path):
    checkpoints = broken(tmp_path)
    for path in checkpoints.glob("*.json"):
        record = read_checked(path, FORMAT)
        record["fingerprints"][0]["torch"] = "1.0"
        write_checked(path, FORMAT, record)
    heard = []
    finish(run(tiny("kd"), tmp_path, warn=heard.append))
    assert len(heard) == 1 and "torch was 1.0" in heard[0]
    assert len(json.loads(max(checkpoints.glob("*.json")).read_text())["fingerprints"]) == 2


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_two_are_an_error(tmp_path):
    straight = finish(run(tiny("kd"), tmp_path / "straight"))
    checkpoints = broken(tmp_path)
    files = sorted(checkpoints.glob("*.safetensors"))
    assert len(files) == 2
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(content)
    heard = []
    assert same(finish(run(tiny("kd"), tmp_path, warn=heard.append)), straight)
    assert len(heard) == 1 and files[-1].stem in heard[0]

    for path in checkpoints.glob("*.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataDiffers, match="no checkpoint in .* is whole"):
        finish(run(tiny("kd"), tmp_path, warn=heard.append))


def test_an_altered_record_is_a_damaged_checkpoint(tmp_path):
    straight = finish(run(tiny("kd"), tmp_path / "straight"))
    newest = max(broken(tmp_path).glob("*.json"))
    step = json.loads(newest.read_text())["step"]
    newest.write_text(newest.read_text().replace(f'"step": {step}', f'"step": {step - 1}'))
    heard = []
    assert same(finish(run(tiny("kd"), tmp_path, warn=heard.append)), straight)
    assert len(heard) == 1 and newest.stem in heard[0]


def test_lost_records_are_an_error_not_a_fresh_start(tmp_path):
    checkpoints = broken(tmp_path)
    for path in checkpoints.glob("*.json"):
        path.unlink()
    with pytest.raises(DataDiffers, match="has lost its record"):
        finish(run(tiny("kd"), tmp_path))


@pytest.mark.parametrize("part", ["weights/", "average/", "optimiser/"])
def test_incomplete_state_is_an_error(part, tmp_path):
    from safetensors.torch import load_file, save_file

    checkpoints = broken(tmp_path)
    for path in checkpoints.glob("*.safetensors"):
        tensors = load_file(path)
        odd = next(name for name in sorted(tensors) if name.startswith(part))
        tensors.pop(odd)
        save_file(tensors, path)
        record = read_checked(path.with_suffix(".json"), FORMAT)
        write_checked(path.with_suffix(".json"), FORMAT, record | {"sha256": sha256_file(path)})
    with pytest.raises(DataDiffers, match="does not fit"):
        finish(run(tiny("kd"), tmp_path))
