"""Teachers of videos and of sound, from their folder and a list of prompts to a promoted student, by `fewstep run`."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from tests.fewstep.families.pipelines import KINDS
from tests.pipeline.test_families import settings
from tests.project import Project

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("apple", "car", "tree", "door")]
MEDIA = {"wan": "videos", "ltx": "videos", "cogvideox": "videos", "stable_audio": "sound"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEDIA)
def test_a_teacher_becomes_a_promoted_student_whose_samples_play(kind, tmp_path):
    KINDS[kind].save(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    project = Project(tmp_path / "project")
    name = kind.replace("_", "-")
    chosen = {**settings(kind, tmp_path / "teacher"), "name": name, "distill.recipe": "tdm",
              "data.prompts": tmp_path / "prompts.txt"}  # fmt: skip
    project.check("run", *[word for key, value in chosen.items() for word in ("--set", f"{key}={value}")])
    registered = json.loads((project.folder / "data/registration/registration.json").read_bytes())
    assert registered["version"] == 1 and registered["promoted"]
    document = json.loads((project.folder / "data/evaluation/evaluation.json").read_bytes())
    assert document["medium"] == MEDIA[kind] and document["rate"] > 0
    page = (project.folder / "data/report/report.html").read_text()
    assert ("data:audio/wav" in page) == (MEDIA[kind] == "sound") and ("data:image/gif" in page) == (kind in PLAYED)
    out = project.folder / f"out.{PLAYED.get(kind, 'wav')}"
    project.check("sample", name, "--prompt", "a red apple", "--n", "2", "--out", str(out))
    assert played(out) > 1


PLAYED = {kind: "gif" for kind, medium in MEDIA.items() if medium == "videos"}


def played(path: Path) -> int:
    """Frames of a GIF, or numbers of a WAV."""
    if path.suffix == ".gif":
        with Image.open(path) as found:
            return found.n_frames
    with wave.open(io.BytesIO(path.read_bytes())) as found:
        return found.getnframes()
