"""The trajectory stage, run as the pipeline runs it, on a saved teacher."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.families.encoded_set import Description
from fewstep.teachers import load_teacher, save_teacher
from fewstep.trajectories import TrajectorySettings, open_set, plan_set, record_size
from fewstep.util.errors import SettingsError
from tasks.config.schema import Settings, Trajectories
from tasks.engine import graph
from tasks.engine.events import Observer
from tasks.engine.runner import run_units
from tasks.stages.base import Context
from tasks.storage.workspace import Workspace
from tests.fewstep.trajectories.making import files, small_unet

STAGE = graph.stage("trajectories")
TINY = {"count": 18, "steps": 2, "record_size": 4, "records_per_shard": 2}


class Progress(Observer):
    def __init__(self):
        self.seen: list[int] = []
        self.warnings: list[str] = []

    def stage_progress(self, stage, done, total, unit, metrics, step):
        assert done <= total
        self.seen.append(done)

    def stage_warned(self, stage, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    save_teacher(small_unet(), folder)
    return folder


def context(work: Path, teacher: Path, recipe: str = "kd", previous: Path | None = None, **settings) -> Context:
    everything = Settings.model_validate({"trajectories": {**TINY, **settings}, "distill": {"recipe": recipe}})
    for name in ("out", "scratch"):
        (work / name).mkdir(parents=True, exist_ok=True)
    encoded, made = work / "encoded", SimpleNamespace(digest="digest")
    encoded.mkdir(exist_ok=True)
    Description().write(encoded)  # nothing, for a teacher of pixels
    return Context(
        stage="trajectories", key=str(work), settings=STAGE.resolve(everything), seed=3,
        inputs={"teacher": teacher, "encode": encoded}, manifests=dict.fromkeys(("teacher", "encode"), made),
        outside={}, work=work,
        previous=previous, workspace=Workspace(work), observer=Progress(),
    )  # fmt: skip


def run(ctx: Context, workers: int = 1) -> dict:
    ctx.workers = workers
    STAGE.check(ctx)
    return run_units(STAGE, ctx, measure=False)


def test_every_setting_of_a_set_is_in_params_yaml():
    assert set(TrajectorySettings.model_fields) == set(Trajectories.model_fields) - {"workers"}


def test_the_stage_makes_the_set(tmp_path, teacher):
    one, three = context(tmp_path / "one", teacher), context(tmp_path / "three", teacher)
    summary = run(one)
    assert summary == run(three, workers=3)
    assert files(one.out) == files(three.out)
    assert summary["samples"] == 18 and summary["records"] == 5 and summary["shards"] == 3
    assert one.observer.seen[-1] == 18 and one.observer.seen == sorted(one.observer.seen)
    plan = plan_set(load_teacher(teacher), TrajectorySettings(**TINY), seed=3, teacher_digest="digest")
    found = open_set(one.out).fields
    assert found == {**plan.fields, "code": "of the manifest"}  # the stage's own manifest names the code
    assert not one.observer.warnings
    assert one.cost == {"records_reused": 0, "records_to_make": 5}


def test_the_record_size_may_be_left_open_and_samples_be_stored_in_bfloat16(tmp_path, teacher, monkeypatch):
    monkeypatch.setattr(record_size, "AUTO_BYTES", 4 * 64 * 2)      # four samples of 8 x 8 in bfloat16
    ctx = context(tmp_path / "work", teacher, record_size="auto", dtype="bfloat16")
    assert run(ctx)["records"] == 5 and open_set(ctx.out).fields["record_size"] == 4
    assert ctx.observer.seen[-1] == 18 and ctx.observer.seen == sorted(ctx.observer.seen)
    assert STAGE.shortened(ctx.settings).count == 1     # one whole record


def test_a_larger_count_makes_only_the_new_records(tmp_path, teacher):
    small = context(tmp_path / "small", teacher)
    run(small)
    large = context(tmp_path / "large", teacher, previous=small.out, count=40)
    run(large)
    assert large.cost == {"records_reused": 5, "records_to_make": 5}
    direct = context(tmp_path / "direct", teacher, count=40)
    run(direct)
    assert files(large.out) == files(direct.out)
    other = context(tmp_path / "other", teacher, previous=small.out, steps=3)
    run(other)
    assert other.cost["records_reused"] == 0


def test_a_recipe_that_needs_none_makes_none(tmp_path, teacher):
    ctx = context(tmp_path / "work", teacher, recipe="ect")
    assert STAGE.units(ctx) == []
    summary = run(ctx)
    assert summary["samples"] == 0 and sorted(files(ctx.out)) == ["set.json"]
    assert len(open_set(ctx.out)) == 0
    after = context(tmp_path / "after", teacher, previous=ctx.out)
    assert run(after)["samples"] == 18


def test_states_are_kept_where_the_settings_ask_for_them(tmp_path, teacher):
    ctx = context(tmp_path / "work", teacher, keep="all")
    run(ctx)
    assert open_set(ctx.out).samples([0])["states"].shape == (1, 2, 1, 8, 8)


def test_what_the_teacher_cannot_do_is_refused_by_check(tmp_path, teacher):
    with pytest.raises(SettingsError, match=r"trajectories\.keep"):
        STAGE.check(context(tmp_path / "keep", teacher, keep=(2,)))
    with pytest.raises(SettingsError, match="unknown solver 'dimm'; did you mean 'ddim'"):
        STAGE.check(context(tmp_path / "solver", teacher, solver="dimm"))
    assert not any((tmp_path / "keep" / "out").iterdir())
