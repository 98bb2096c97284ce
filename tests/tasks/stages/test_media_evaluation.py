"""Teachers of videos and of sound, prompts alone: the teacher's samples as reference, figures, gate, report."""

from __future__ import annotations

import base64
import io
import json
import re
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.images import load_split
from fewstep.families.encoded_set import EncodedSet
from fewstep.families.recorded_conditions import record_conditions
from fewstep.metrics.comparison.noninferiority import judge
from fewstep.metrics.comparison.prompt_contrasts import prompt_contrasts
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.trajectories import open_set
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.schema import Gate, Settings
from tasks.evaluation.documents import EVALUATION, Evaluation
from tasks.evaluation.documents import read as read_document
from tasks.evaluation.examination_setup import stage_examination
from tasks.report.page import render
from tasks.report.report_data import PICTURES, Material, load_file
from tests.fewstep.families.pipelines import KINDS
from tests.tasks.stages.evaluation_world import World

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("car", "tree", "apple", "door")]
SIZES = ("height", "width", "num_frames", "max_sequence_length")


STAGES = ("shard", "encode", "teacher", "reference", "classifier", "trajectories", "distill", "baselines", "evaluate")


def made(root: Path, kind: str, stages: tuple[str, ...] = STAGES) -> World:
    """A world with a tiny teacher of this kind and prompts, after these stages."""
    KINDS[kind].save(root / "pipeline")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    world = World(root / "world", teacher=root / "pipeline")
    world.outside["prompts"] = root / "prompts.txt"
    known = KINDS[kind].arguments
    world.settings = parse(Settings, {
        "data": {"prompts": str(root / "prompts.txt"), "split": {"train": 0.2, "fit": 0.4, "test": 0.4}},
        "encode": {**{name: known[name] for name in SIZES if name in known},
                   "arguments": {name: value for name, value in known.items() if name not in SIZES}},
        "teacher": {"source": str(root / "pipeline"), "check": {"samples": 16, "steps": 2}},
        "trajectories": {"steps": 2, "count": 16, "record_size": 8}, "distill": {"images": 8, "batch": 4},
        "evaluate": {"samples": 48, "batch": 16, "steps": [1, 2], "baseline_steps": [1, 2], "grid": 2,
                     "solvers": ["ddim"], "classifier": {"images": 256, "batch": 16, "features": 3}},
    }, "test")  # fmt: skip
    for stage in stages:
        world.run(stage)
    return world


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("video"), "wan")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("sound"), "stable_audio")


def evaluation(world: World) -> Evaluation:
    return read_document(Evaluation, world.folder("evaluate") / EVALUATION)


def page(world: World) -> str:
    folder = world.folder("evaluate")
    return render([Material(label="mine", document=evaluation(world), pictures=load_file(folder / PICTURES))])


def embedded(text: str, kind: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(f'src="data:{kind};base64,([^"]+)"', text)]


@pytest.mark.parametrize("kind", ["ltx", "cogvideox"])
def test_other_videos_are_encoded_and_drawn_as_reference(kind, tmp_path):
    world = made(tmp_path, kind, STAGES[:4])
    encoded = EncodedSet(world.folder("encode"))
    pipe, rows = load_pipeline(inspect_teacher(world.outside["teacher"])), encoded.table().gather(torch.arange(3))
    wanted = record_conditions(pipe, encoded.family, {"prompt": encoded.prompts[:3]}, 3)
    for name, value in wanted.items():      # masks stay masks
        assert rows[name].dtype == value.dtype and torch.allclose(rows[name].float(), value.float(), atol=1e-5)
    drawn = load_split(world.folder("reference"), "fit")
    assert len(drawn) == 48 and drawn.medium == "videos" and torch.isfinite(drawn.images([0])).all()


def test_videos_have_figures_of_what_they_show_and_how_they_move_and_by_frame(video):
    drawn = load_split(video.folder("reference"), "test")
    assert (drawn.medium, drawn.shape, drawn.rate) == ("videos", (9, 3, 16, 16), 16.0)
    document = evaluation(video)
    values = document.first.values
    assert {"fd_infinite", "kid", "retrieval", "fd_infinite@motion", "kid@motion", "mmd@motion"} <= set(values)
    protocol = document.protocols[values["kid@motion"].protocol]
    assert (protocol.features, protocol.seen) == ("motion", "mean change between frames, of text-3")
    assert document.protocols[values["kid"].protocol].seen == "mean over frames"
    for row in (document.first, document.teacher, document.floor):
        assert [frame.frame for frame in row.frames] == list(range(1, 10)) and row.frames[0].mmd is not None
    headline = json.loads((video.folder("evaluate") / "metrics.json").read_bytes())
    assert headline["student"]["1"]["kid@motion"] is not None


def test_no_prompt_that_students_are_asked_for_was_trained_on(video):
    table = EncodedSet(video.folder("encode")).prompt_table()
    trained = open_set(video.folder("trajectories")).samples(list(range(16)))["condition"]
    assert sorted(set(trained.tolist())) == table.rows("train").tolist()
    asked = {int(row) for row in evaluation(video).prompts}
    assert asked == set(table.rows("test").tolist()) and not asked & set(trained.tolist())
    assert any(note.startswith(f"Only {len(asked)} prompt") for note in evaluation(video).notes)


def test_the_gate_refuses_a_student_whose_videos_stand_still(video):
    context = video.context("evaluate", "gate")
    test = stage_examination(context, len(EncodedSet(video.folder("encode")).prompts))
    rng = np.random.default_rng(0)
    moving = rng.normal(size=(400, test.images.extractor.dimensions))
    reference = test.images.observed
    n, rules = len(moving), Gate()
    rows = np.resize(test.plan.classes.numpy(), n)
    seen = replace(reference, features=moving, more={"motion": np.abs(moving) + 1}, embedding=None, frames=None)
    still = replace(seen, more={"motion": np.zeros_like(moving)})
    asked = replace(test.asked((reference, reference)), rows=rows, groups=np.full(n, -1), strata=False, hits=None)
    target = replace(seen, more={"motion": np.abs(rng.normal(size=moving.shape)) + 1})
    found = prompt_contrasts(still, seen, target, asked, rules.margins.model_dump())
    verdicts = {one.contrast.name: one.verdict for one in judge(found, rules.level, rules.power).findings}
    assert verdicts["kid@motion"] == "worse" and verdicts["kid"] != "worse"


def test_the_report_shows_strips_of_videos_and_plays_them(video):
    text = page(video)
    pictures = load_file(video.folder("evaluate") / PICTURES)
    assert pictures["grid.student-1"].shape[1:] == (3, 16, 4 * 16)
    played = embedded(text, "image/gif")
    assert len(played) == 3 * len(pictures["followed"])     # teacher, and the student in 1 and 2 steps
    with Image.open(io.BytesIO(played[0])) as one:
        assert (one.n_frames, one.size) == (9, (16, 16))
    assert "four frames are shown" in text and "FD-motion" in text and 'id="frames"' in text and "one video" not in text
    with Image.open(video.folder("evaluate") / "grid.png") as grid:
        assert grid.width > 3 * 4 * 16


def test_sound_is_measured_by_its_spectrogram_and_plays(sound):
    drawn = load_split(sound.folder("reference"), "test")
    assert (drawn.medium, drawn.rate, drawn.images([0]).dtype) == ("sound", 4.0, torch.float32)
    document = evaluation(sound)
    protocol = document.protocols[document.first.values["fd_infinite"].protocol]
    assert protocol.seen.startswith("log-mel spectrogram") and protocol.quantised == "16 bit"
    assert "retrieval" in document.first.values and not document.first.frames
    text = page(sound)
    played = embedded(text, "audio/wav")
    with wave.open(io.BytesIO(played[0])) as one:
        assert (one.getframerate(), one.getnchannels(), one.getnframes()) == (4, *drawn.shape)
    assert "media-src data:" in text and "spectrogram" in text


def test_images_beside_a_teacher_of_videos_are_refused_before_any_work(video, tmp_path):
    (tmp_path / "images" / "red").mkdir(parents=True)
    for number in range(40):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / "images" / "red" / f"{number}.png")
    world = World(tmp_path / "world", data={"source": "raw"}, images=tmp_path / "images",
                  teacher=video.outside["teacher"])  # fmt: skip
    world.settings = world.settings.model_copy(update={"encode": video.settings.encode})
    world.run("shard")
    with pytest.raises(SettingsError, match="WanPipeline makes videos, and the data are images"):
        world.run("encode")
