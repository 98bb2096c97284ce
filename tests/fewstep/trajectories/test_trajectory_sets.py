"""Trajectory sets: content, identity, resume, extension, damage, order."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from fewstep.data.records import verify_shard
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import integers, noise
from fewstep.diffusion.sampling import sample
from fewstep.trajectories import (
    SetWriter,
    TrajectorySettings,
    open_set,
    plan_set,
    record_size,
    set_description,
    set_key,
)
from fewstep.trajectories.backend_log import Backends
from fewstep.trajectories.generate import in_threads
from fewstep.trajectories.record_size import auto_record_size
from fewstep.trajectories.set_plan import operations
from fewstep.trajectories.teacher_runtime import prepare
from fewstep.util import compiling
from fewstep.util.errors import CorruptData, FewstepError, NonFinite, SettingsError
from tests import children
from tests.fewstep.trajectories import making
from tests.fewstep.trajectories.making import TINY, files, make, small_mixture, small_unet
from tests.file_events import drawn


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    make(folder)
    return folder


def changed(**values) -> TrajectorySettings:
    return TINY.model_copy(update=values)


# Content


def test_a_set_holds_what_the_teacher_makes_of_keyed_noise(made):
    found = open_set(made)
    assert len(found) == 18 and found.shape == (1, 8, 8) and found.num_classes == 10
    for record in range(5):
        indices = torch.arange(4 * record, 4 * record + 4)
        z = noise(3, "trajectories", indices, (1, 8, 8))
        y = integers(3, "trajectory-condition", indices, 10)
        truth = sample(small_unet(), z, solver="dpmsolver++", steps=2, condition=y).x
        there = indices[indices < 18]
        got = found.samples(there)
        assert torch.equal(got["noise"], z[: len(there)]) and torch.equal(got["condition"], y[: len(there)])
        assert torch.equal(got["x"], truth[: len(there)])


def test_exact_teacher_gives_exact_pairs(tmp_path):
    teacher = small_mixture()
    found = make(tmp_path / "set", TrajectorySettings(count=300, steps=64, record_size=128), teacher)
    got = found.samples(range(300))
    means = teacher.means[got["condition"]]
    distance = ((got["x"] - means) ** 2).mean().sqrt()
    assert abs(float(distance) - 0.2) < 0.03
    truth = teacher.flow(got["noise"].double(), teacher.process.t_max, teacher.process.t_min, got["condition"])
    assert float((got["x"] - truth).pow(2).mean().sqrt()) < 0.02


def test_states_and_times(tmp_path):
    teacher = small_unet()
    found = make(tmp_path / "all", changed(keep="all", steps=3), teacher)
    got = found.samples([1, 7])
    assert got["states"].shape == (2, 3, 1, 8, 8) and got["times"].dtype == torch.float64
    assert (got["times"][:-1] > got["times"][1:]).all() and float(got["times"][0]) == teacher.process.t_max
    assert torch.allclose(got["states"][:, 0], got["noise"], atol=1e-5)
    some = make(tmp_path / "some", changed(keep=(0, 2), steps=3), teacher).samples([1, 7])
    assert torch.equal(some["states"], got["states"][:, [0, 2]]) and torch.equal(some["x"], got["x"])


def test_states_are_stored_in_bfloat16_too(tmp_path):
    exact = make(tmp_path / "exact", changed(keep="all")).samples(range(18))
    brief = make(tmp_path / "brief", changed(keep="all", dtype="bfloat16")).samples(range(18))
    assert torch.equal(brief["states"], exact["states"].bfloat16().float())
    assert torch.equal(brief["times"], exact["times"])


@pytest.mark.parametrize(("shape", "states", "dtype", "expected"), [
    ((1, 28, 28), 0, "float32", 256), ((1, 28, 28), 16, "float32", 64),
    ((4, 128, 128), 0, "float32", 16), ((4, 128, 128), 0, "bfloat16", 32), ((16, 128, 128), 0, "bfloat16", 8),
    ((16, 21, 60, 104), 0, "bfloat16", 1), ((16, 21, 60, 104), 50, "float32", 1),
])  # fmt: skip
def test_the_size_of_a_record_that_is_left_open_is_decided_by_the_bytes_of_a_sample(shape, states, dtype, expected):
    assert auto_record_size(shape, states, dtype) == expected


def test_a_set_whose_record_size_is_left_open_is_the_set_of_that_size(tmp_path, monkeypatch):
    monkeypatch.setattr(record_size, "AUTO_BYTES", 4 * 3 * 64 * 4 + 1000)    # four samples with two states each
    chosen = changed(record_size=4, keep="all")
    left_open = changed(record_size="auto", keep="all")
    assert key_of(left_open, small_unet()) == key_of(chosen, small_unet())
    make(tmp_path / "chosen", chosen)
    make(tmp_path / "open", left_open)
    assert files(tmp_path / "open") == files(tmp_path / "chosen")


def test_half_precision(tmp_path, made):
    exact = open_set(made).samples(range(18))["x"]
    stored = make(tmp_path / "stored", changed(dtype="float16")).samples(range(18))["x"]
    assert torch.equal(stored, exact.half().float())
    brief = make(tmp_path / "brief", changed(dtype="bfloat16")).samples(range(18))["x"]
    assert brief.dtype == torch.float32 and torch.equal(brief, exact.bfloat16().float())
    rough = make(tmp_path / "rough", changed(precision="bfloat16")).samples(range(18))["x"]
    relative = (rough - exact).norm() / exact.norm()
    assert 0 < relative < 0.05
    teacher = small_unet()
    make(tmp_path / "again", changed(precision="bfloat16"), teacher)
    assert next(teacher.parameters()).dtype == torch.float32


def test_guidance_uses_the_null_class(tmp_path, made):
    guided = make(tmp_path / "set", changed(guidance=2.0)).samples(range(4))
    truth = sample(small_unet(), guided["noise"], steps=2, condition=guided["condition"], guidance=2.0).x
    assert torch.equal(guided["x"], truth)
    assert not torch.equal(guided["x"], open_set(made).samples(range(4))["x"])


@pytest.mark.parametrize(
    ("settings", "teacher", "named"),
    [
        (changed(solver="dpmsolvr++"), small_unet, "solver"),
        (changed(solver="ddpm"), small_unet, "solver"),
        (changed(guidance=2.0), lambda: small_unet(null_class=False), "guidance"),
        (changed(keep=(2,)), small_unet, "keep"),
        (changed(precision="bfloat16"), small_mixture, "precision"),
        (changed(compile=True), small_mixture, "compile"),
    ],
)
def test_what_the_teacher_cannot_do_is_refused_before_any_work(tmp_path, settings, teacher, named):
    with pytest.raises(SettingsError, match=named):
        make(tmp_path / "set", settings, teacher())
    assert not list(tmp_path.iterdir())


# Identity


def test_the_default_settings_stand_in_keys_as_they_always_did():
    assert TrajectorySettings().model_dump(mode="json") == {
        "count": 8192, "solver": "dpmsolver++", "steps": 16, "guidance": 1.0, "keep": None, "record_size": 256,
        "records_per_shard": 8, "dtype": "float32", "precision": "float32", "compile": "auto",
    }  # fmt: skip


def key_of(settings: TrajectorySettings, teacher: Denoiser, **more) -> str:
    arguments = {"seed": 3, "teacher_digest": "a teacher", **more}
    return set_key(plan_set(teacher, settings, **arguments).fields, [{"torch": "x"}])


def test_the_key_covers_everything_but_the_count():
    teacher = small_unet()
    base = key_of(TINY, teacher)
    assert key_of(changed(count=10**6), teacher) == base
    other = small_unet()
    other.prediction_type = "epsilon"
    variants = [
        key_of(changed(solver="ddim"), teacher),
        key_of(changed(steps=3), teacher),
        key_of(changed(guidance=1.5), teacher),
        key_of(changed(keep="all"), teacher),
        key_of(changed(keep=(1,)), teacher),
        key_of(changed(record_size=5), teacher),
        key_of(changed(records_per_shard=3), teacher),
        key_of(changed(dtype="float16"), teacher),
        key_of(changed(precision="bfloat16"), teacher),
        key_of(changed(compile=True), teacher),
        key_of(TINY, teacher, seed=4),
        key_of(TINY, teacher, teacher_digest="another"),
        key_of(TINY, teacher, num_classes=9),
        key_of(TINY, other),
        key_of(TINY, small_mixture()),
        set_key(plan_set(teacher, TINY, seed=3, teacher_digest="a teacher").fields, [{"torch": "y"}]),
        set_key(plan_set(teacher, TINY, seed=3, teacher_digest="a teacher").fields, [{"torch": "x"}, {"torch": "y"}]),
    ]
    assert len({base, *variants}) == len(variants) + 1
    fields = plan_set(teacher, TINY, seed=3, teacher_digest="a teacher").fields
    assert set(TrajectorySettings.model_fields) - {"count"} <= set(fields)
    assert {"teacher", "process", "prediction", "shape", "condition", "negative", "seed", "code"} <= set(fields)


def test_automatic_compilation_looks_at_the_settings_only():
    teacher = small_unet()
    assert plan_set(teacher, changed(compile="auto"), seed=3, teacher_digest="t").settings.compile is False
    long = changed(compile="auto", count=10**9)
    assert plan_set(teacher, long, seed=3, teacher_digest="t").settings.compile is True
    assert TrajectorySettings().compile == "auto"


def test_what_is_long_enough_is_said_in_one_place(monkeypatch):
    monkeypatch.setattr(compiling, "LONG_ENOUGH", operations(small_unet()) * 2 * 18)
    own, short = (plan_set(small_unet(), changed(compile="auto", count=count), seed=3, teacher_digest="t")
                  for count in (18, 17))  # fmt: skip
    assert own.settings.compile and own.automatic and not short.settings.compile
    assert own.fields["compile"] is True and not plan_set(small_unet(), changed(compile=True), seed=3,
                                                          teacher_digest="t").automatic  # fmt: skip


@pytest.mark.parametrize("lacks", ["compiler", "graph"])
def test_a_machine_that_cannot_compile_runs_the_network_as_it_is_says_so_and_is_named(lacks, made, tmp_path,
                                                                                     monkeypatch):  # fmt: skip
    monkeypatch.setattr(compiling, "LONG_ENOUGH", 1.0)
    if lacks == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.setattr(UNet2DModel, "forward", _broken(UNet2DModel.forward))
    with pytest.warns(UserWarning, match="C.. compiler .no-such-compiler" if lacks == "compiler"
                      else "a network that torch.compile understands"):  # fmt: skip
        found = make(tmp_path / "set", changed(compile="auto"), execute=in_threads(1))
    told = set_description.read(tmp_path / "set")
    assert told["fields"]["compile"] is True and [one["compiled"] for one in told["backends"]] == [False]
    assert torch.equal(found.samples(range(18))["x"], open_set(made).samples(range(18))["x"])
    assert "compiled" not in set_description.read(made)["backends"][0]
    with pytest.raises(SettingsError, match="trajectories.compile: true needs") as refused:
        make(tmp_path / "asked", changed(compile=True), execute=in_threads(1))
    assert refused.value.hint == "set trajectories.compile: auto"


def _broken(forward):
    """The same, with a break in its graph."""
    def broken(self, *arguments, **named):
        torch._dynamo.graph_break()
        return forward(self, *arguments, **named)

    return broken


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "guidance": 2.0}])
def test_compiled_once_for_all_workers(tmp_path, changes):
    settings = changed(compile=True, **changes)

    def workers(count):
        def execute(work, shards):
            in_threads(count)(torch._dynamo.config.patch(error_on_recompile=True)(work), shards)

        return execute

    one = make(tmp_path / "one", settings, execute=workers(1))
    make(tmp_path / "three", settings, execute=workers(3))
    assert files(tmp_path / "one") == files(tmp_path / "three")
    make(tmp_path / "again", changed(compile=True, **changes, count=6), execute=workers(2))
    torch.compiler.reset()
    make(tmp_path / "again", settings, execute=workers(2))      # gone on with, and compiled anew
    assert files(tmp_path / "again") == files(tmp_path / "one")
    plain = make(tmp_path / "plain", changed(**changes, compile=False)).samples(range(18))["x"]
    assert (one.samples(range(18))["x"] - plain).norm() / plain.norm() < (2e-2 if changes else 1e-4)


# The same bytes, however they came about


def test_one_worker_and_three_in_any_order(tmp_path, made):
    def shuffled(work, shards):
        shards = list(shards)
        random.Random(5).shuffle(shards)
        in_threads(3)(work, shards)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(tmp_path / "three", execute=shuffled)
        make(tmp_path / "one", execute=in_threads(1))
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "three") == files(tmp_path / "one") == files(made)


def test_the_global_generator_is_neither_read_nor_moved(tmp_path, made):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    make(tmp_path / "set", execute=in_threads(1))
    assert torch.equal(torch.random.get_rng_state(), before) and files(tmp_path / "set") == files(made)


def test_nothing_is_left_beside_a_finished_set(tmp_path):
    make(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    names = sorted(files(tmp_path / "set"))
    assert names == sorted([f"{n:05d}.tar{end}" for n in range(3) for end in ("", ".index.json")] + ["set.json"])
    assert all(verify_shard(tmp_path / "set" / f"{n:05d}.tar") == [] for n in range(3))


class Counting:
    """Counts the records that are made, and may stop after some."""

    def __init__(self, monkeypatch, limit: int = 10**9):
        self.made: list[int] = []
        inner = SetWriter.make_batch

        def make_batch(writer, denoiser, record):
            if len(self.made) >= limit:
                raise InterruptedError
            self.made.append(record)
            return inner(writer, denoiser, record)

        monkeypatch.setattr(SetWriter, "make_batch", make_batch)


def test_interrupted_after_any_record(tmp_path, made, monkeypatch):
    for limit in range(1, 5):
        folder = tmp_path / str(limit)
        with monkeypatch.context() as patch:
            first = Counting(patch, limit)
            with pytest.raises(InterruptedError):
                make(folder, execute=in_threads(1))
        with monkeypatch.context() as patch:
            second = Counting(patch)
            make(folder, execute=in_threads(1))
        assert sorted(first.made + second.made) == list(range(5))
        assert files(folder) == files(made)


def test_a_second_call_makes_nothing(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "set")
    counting = Counting(monkeypatch)
    make(tmp_path / "set")
    assert counting.made == []


@pytest.mark.parametrize("count", [19, 24, 25, 40])
def test_a_larger_set_extends_a_smaller_one(tmp_path, made, monkeypatch, count):
    make(tmp_path / "direct", changed(count=count))
    shutil.copytree(made, tmp_path / "grown")
    counting = Counting(monkeypatch)
    grown = make(tmp_path / "grown", changed(count=count))
    assert sorted(counting.made) == list(range(5, -(-count // 4)))
    assert len(grown) == count
    assert files(tmp_path / "grown") == files(tmp_path / "direct")
    old = open_set(made).samples(range(18))
    assert torch.equal(grown.samples(range(18))["x"], old["x"])


def test_a_smaller_set_needs_no_teacher(tmp_path, made, monkeypatch):
    shutil.copytree(made, tmp_path / "set")
    counting = Counting(monkeypatch)
    assert len(make(tmp_path / "set", changed(count=6))) == 6 and counting.made == []


def test_another_set_in_the_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path, made, monkeypatch):
    shutil.copytree(made, tmp_path / "set")
    with monkeypatch.context() as patch:
        Counting(patch, 2)
        with pytest.raises(InterruptedError):
            make(tmp_path / "set", changed(solver="ddim"), execute=in_threads(1))
    assert files(tmp_path / "set") == files(made)
    make(tmp_path / "set", changed(solver="ddim"))
    assert open_set(tmp_path / "set").fields["solver"] == "ddim"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(SettingsError, match="something else"):
        make(tmp_path / "mine")


def run_and_kill(folder: Path, count: int, fatal: int | None = None) -> int:
    """Make the set in a process of its own, which dies before its event `fatal`; how many there were (0: it died)."""
    server = children.context()
    heard, counted = server.Pipe(duplex=False)
    child = server.Process(target=making.work, args=(str(folder), count, fatal, counted))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL) and (fatal or child.exitcode == 0)
    return heard.recv() if child.exitcode == 0 else 0


def assert_killed_equals_undisturbed(tmp_path: Path, count: int, kills: int, seed: int) -> None:
    events = run_and_kill(tmp_path / "whole", count)
    died = [run_and_kill(tmp_path / "killed", count, number) == 0
            for number in drawn(events, kills, random.Random(seed))]
    assert died.count(True) >= 0.6 * kills
    run_and_kill(tmp_path / "killed", count)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_killed_and_resumed(tmp_path):
    assert_killed_equals_undisturbed(tmp_path, 100, 5, seed=0)


@pytest.mark.slow
def test_killed_forty_times_and_resumed(tmp_path):
    assert_killed_equals_undisturbed(tmp_path, 2000, 40, seed=1)


def test_continued_with_other_libraries(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Counting(patch, 3)
        with pytest.raises(InterruptedError):
            make(tmp_path / "set", execute=in_threads(1))
    note = next(tmp_path.glob("set.partial-*/scratch/backends/*.json"))
    here = json.loads(note.read_text())
    note.unlink()
    Backends(note.parent).add({**here, "torch": "0.1"})
    with pytest.warns(UserWarning, match="other libraries"):
        make(tmp_path / "set", execute=in_threads(1))
    content = json.loads((tmp_path / "set" / "set.json").read_text())
    assert {one["torch"] for one in content["backends"]} == {"0.1", torch.__version__}
    assert content["key"] == set_key(content["fields"], content["backends"])


# Damage


def test_a_flipped_bit_is_found_before_use(tmp_path, made):
    shutil.copytree(made, tmp_path / "set")
    path = tmp_path / "set" / "00001.tar"
    content = bytearray(path.read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)
    found = open_set(tmp_path / "set")
    found.samples(range(8))
    with pytest.raises(CorruptData, match="00001.tar"):
        found.samples([9])
    with pytest.raises(CorruptData, match="00001.tar"):
        found.batch(0, 0, 18)
    with pytest.raises(CorruptData, match="00001.tar"):
        make(tmp_path / "set", changed(count=30))


def test_records_and_shards_do_not_trade_places(tmp_path, made):
    shutil.copytree(made, tmp_path / "set")
    one, two = tmp_path / "set" / "00000.tar", tmp_path / "set" / "00001.tar"
    for end in ("", ".index.json"):
        a, b = Path(f"{one}{end}"), Path(f"{two}{end}")
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
    with pytest.raises(CorruptData, match="00000.tar"):
        open_set(tmp_path / "set")


def test_damaged_description_and_missing_set(tmp_path, made):
    with pytest.raises(SettingsError, match="no trajectory set"):
        open_set(tmp_path)
    shutil.copytree(made, tmp_path / "set")
    text = (tmp_path / "set" / "set.json").read_text()
    (tmp_path / "set" / "set.json").write_text(text.replace('"count": 18', '"count": 19'))
    with pytest.raises(CorruptData, match="set.json"):
        open_set(tmp_path / "set")


def test_a_damaged_loose_record_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Counting(patch, 1)
        with pytest.raises(InterruptedError):
            make(tmp_path / "set", execute=in_threads(1))
    loose = next(tmp_path.glob("set.partial-*/scratch/records/*"))
    loose.write_bytes(loose.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptData, match=loose.name):
        make(tmp_path / "set", execute=in_threads(1))
    loose.unlink()
    make(tmp_path / "set")


def test_non_finite_samples_stop_the_work(tmp_path):
    teacher = small_unet()
    with torch.no_grad():
        teacher.network.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFinite, match="record 0 .samples 0 to 3"):
        make(tmp_path / "set", teacher=teacher, execute=in_threads(1))
    with torch.no_grad():
        teacher.network.conv_out.bias.fill_(1e6)
    with pytest.raises(NonFinite, match="float16"):
        make(tmp_path / "half", changed(dtype="float16"), teacher, execute=in_threads(1))


def test_full_disk_keeps_finished_work(tmp_path, made, monkeypatch):
    # a record fits, a shard of two does not
    said = children.result(making.make_alone, str(tmp_path / "set"), largest_file=3000)
    assert said.startswith("DiskFull: disk full while writing") and ".tar" in said
    counting = Counting(monkeypatch)
    make(tmp_path / "set", execute=in_threads(1))
    assert set(counting.made) <= {2, 3, 4}
    assert files(tmp_path / "set") == files(made)


def test_finish_refuses_an_incomplete_set(tmp_path):
    teacher = small_unet()
    plan = plan_set(teacher, TINY, seed=3, teacher_digest="t")
    writer = SetWriter(tmp_path / "out", tmp_path / "scratch", plan)
    assert writer.missing() == [0, 1, 2, 3, 4] and writer.missing_shards() == [0, 1, 2]
    writer.make_shard(prepare(teacher, plan), 1)
    assert writer.missing() == [0, 1, 4] and writer.missing_shards() == [0, 2]
    with pytest.raises(FewstepError, match="2 of 3 shards are missing"):
        writer.finish()


# Order


@pytest.mark.parametrize("record_size", [1, 4, 7, 18, 30])
def test_every_epoch_visits_every_sample_once(tmp_path, record_size):
    found = make(tmp_path / "set", TrajectorySettings(count=45, steps=1, record_size=record_size), small_mixture())
    epochs = []
    for epoch in range(3):
        seen = torch.cat([found.batch(7, 45 * epoch + start, 5)["index"] for start in range(0, 45, 5)])
        assert sorted(seen.tolist()) == list(range(45))
        epochs.append(seen.tolist())
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])


def test_order_is_a_function_of_seed_and_position(tmp_path, made):
    found, again = open_set(made), open_set(made)
    long = found.batch(1, 11, 40)
    parts = [again.batch(1, 11 + start, 8) for start in (24, 0, 32, 8, 16)]
    joined = torch.cat([parts[i]["x"] for i in (1, 3, 4, 0, 2)])
    assert torch.equal(long["x"], joined)
    assert not torch.equal(long["index"], found.batch(2, 11, 40)["index"])
    row = found.samples(long["index"])
    assert torch.equal(row["x"], long["x"]) and torch.equal(row["noise"], long["noise"])


def test_an_empty_set_says_so(tmp_path):
    from fewstep.trajectories import set_description

    set_description.write(tmp_path, {"count": 0, "fields": {}, "backends": [], "key": "", "shards": []})
    assert len(open_set(tmp_path)) == 0
    with pytest.raises(SettingsError, match="empty"):
        open_set(tmp_path).batch(0, 0, 1)


# Memory


def test_memory_does_not_grow_with_the_set(tmp_path):
    """3 KiB per sample: eight times the samples are 22 MB more on disk and none in memory, up to the allocator."""
    children.result(making.peak_memory, str(tmp_path / "warm"), 128)
    small = children.result(making.peak_memory, str(tmp_path / "small"), 1024)
    large = children.result(making.peak_memory, str(tmp_path / "large"), 8 * 1024)
    assert sum(path.stat().st_size for path in (tmp_path / "large").iterdir()) > 25e6
    assert large - small < 8e6
