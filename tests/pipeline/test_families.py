"""Teachers of the kinds that people have, from their folder to a registered, promoted student, by `fewstep run`: it is
loaded by the model card's own words in plain diffusers and in MLflow, and all draw what `Student.sample` does.

One kind in `make test`, the others in `make test-slow`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.medium import IMAGES, SOUND, VIDEOS
from fewstep.util.image_grid import sheet
from tests.fewstep.families.pipelines import KINDS, PIXELS
from tests.pipeline.alone import CARD_OF_DIFFUSERS, CARD_OF_MLFLOW, alone, shown_python
from tests.pipeline.own_samples import Own, count
from tests.pipeline.tiny_runs import MEDIA, TEXTS, Finished, finished_run, kind_of

QUICK = ("sd",)
CASES = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in (*KINDS, *PIXELS)]
LABELS = {"dit": [0, 1, 2, 3], "unet": [0, 1, 2]}
"""That the card's words ask for: the first four classes, or all three."""
TWO = {"prompt": {"prompt": TEXTS}, "class_labels": {"class_labels": [1, 2]}, "batch_size": {"batch_size": 2}}
WORDS = {"prompt": ("--prompt", TEXTS[0]), "class_labels": ("--class", "1"), "batch_size": ()}
"""Of `fewstep sample`."""
ROUNDED = 0.5 / 255 + 1e-4


@pytest.fixture(scope="module", params=CASES)
def finished(request, tmp_path_factory) -> Finished:
    return finished_run(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def asked(finished) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the card asks for, and two samples: arguments of the pipeline's call."""
    conditions = kind_of(finished.kind).conditions
    one = {"prompt": TEXTS[:1], "class_labels": LABELS.get(finished.kind), "batch_size": 4}
    return {conditions: one[conditions]}, TWO[conditions]


def medium(finished: Finished) -> str:
    return MEDIA.get(finished.kind, IMAGES)


def test_the_student_is_registered_and_promoted_with_all_that_it_came_from(finished):
    registered = finished.registered
    assert registered["version"] == 1 and registered["promoted"]
    assert registered["model"] == f"fewstep-{finished.name}"
    told = finished.project.check("lineage", finished.name)
    encoded = () if finished.kind in PIXELS else ("encode", "encoders")
    assert all(word in told for word in ("champion", "given teacher", *encoded)), told


def test_plain_diffusers_samples_what_the_student_does(finished, asked, tmp_path):
    shutil.copytree(finished.package / "artifacts", tmp_path / "artifacts")
    _, code = shown_python((finished.package / "README.md").read_text())
    (one, two), own = asked, Own(finished.student)
    # nothing but the conditions is said to a recorded pipeline; a UNet2DModel's is told steps, as the card does
    said = {"batch_size": 2, "num_inference_steps": own.student.sampler.steps} if finished.kind in PIXELS else {}
    alone(CARD_OF_DIFFUSERS, code, json.dumps({**two, **said}), "card.npy", "two.npy", project=finished.project,
          folder=tmp_path)  # fmt: skip
    rounded = 1e-4 if medium(finished) == SOUND else ROUNDED
    check_alike(tmp_path / "card.npy", own.drawn(one, [5], together=True), rounded)
    check_alike(tmp_path / "two.npy", own.drawn(two, [5, 6]))


def test_mlflow_samples_what_the_student_does(finished, asked, tmp_path):
    code, _ = shown_python((finished.package / "README.md").read_text())
    one, two = asked
    columns = {name.removesuffix("_labels"): value for name, value in two.items() if name != "batch_size"}
    bad, word = ({"seed": [1]}, "prompt") if "prompt" in one else ({"class": [1000]}, "class 1000")
    said = alone(CARD_OF_MLFLOW, code, finished.tracking, json.dumps(columns), json.dumps(bad), "card.npy", "two.npy",
                 project=finished.project, folder=tmp_path)  # fmt: skip
    assert word in said
    own = Own(finished.student)
    check_alike(tmp_path / "card.npy", own.drawn(one, range(count(one))))
    check_alike(tmp_path / "two.npy", own.drawn(two, [5, 6]))


def check_alike(path: Path, own: torch.Tensor, most: float = 1e-4) -> None:
    """The samples of a file are these, and no two are alike."""
    found = np.load(path)
    assert found.shape == own.shape and np.allclose(found, own.numpy(), atol=most, rtol=0)
    assert all(float((own[0] - other).abs().max()) > 4 * most for other in own[1:])


SAMPLE = """
import sys
from flows.cli import app
app(["sample", *sys.argv[1:]], standalone_mode=False)
print([name for name in ("prefect", "dvc", "ray", "torchvision", "matplotlib") if name in sys.modules])
"""


def test_fewstep_sample_writes_what_the_student_samples_and_loads_no_orchestration(finished, asked, tmp_path):
    _, two = asked
    alike = {name: [value[0]] * 2 if isinstance(value, list) else value for name, value in two.items()}
    out = tmp_path / f"out.{'wav' if medium(finished) == SOUND else 'png'}"
    words = [finished.name, *WORDS[kind_of(finished.kind).conditions], "--n", "2", "--seed", "3", "--out"]
    done = subprocess.run([sys.executable, "-c", SAMPLE, *words, str(out)], cwd=finished.project.folder,
                          env=finished.project.environment(), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    own = Own(finished.student).stored(alike, 3)
    if medium(finished) == SOUND:
        with wave.open(str(out)) as file:
            found = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        wanted = torch.cat(list(own), dim=-1).T.numpy()     # one after the other
    else:
        videos = medium(finished) == VIDEOS     # a row each, of all frames
        found = np.asarray(Image.open(out).convert("RGB"))
        wanted = np.asarray(sheet(own.flatten(0, 1) if videos else own, own.shape[1] if videos else 2))
    assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


def test_videos_play(finished, tmp_path):
    if medium(finished) != VIDEOS:
        words = [finished.name, *WORDS[kind_of(finished.kind).conditions], "--out", str(tmp_path / "out.gif")]
        refused = finished.project.run("sample", *words)
        assert refused.returncode == 2 and "no .gif file" in refused.stderr
        return
    finished.project.check("sample", finished.name, *WORDS["prompt"], "--n", "2", "--out", str(tmp_path / "out.gif"))
    with Image.open(tmp_path / "out.gif") as file:
        assert file.n_frames == Own(finished.student).codec.sample_shape[0]


def test_what_is_no_image_is_measured_and_shown_as_what_it_is(finished):
    document = json.loads((finished.project.folder / "data/evaluation/evaluation.json").read_bytes())
    assert document.get("medium", IMAGES) == medium(finished)
    assert (document.get("rate", 0) > 0) == (medium(finished) != IMAGES)
    page = (finished.project.folder / "data/report/report.html").read_text()
    assert ("data:audio/wav" in page) == (medium(finished) == SOUND)
    assert ("data:image/gif" in page) == (medium(finished) == VIDEOS)


def test_sample_asks_for_what_is_missing(finished):
    textual = kind_of(finished.kind).conditions == "prompt"
    refused = finished.project.run("sample", finished.name, *(() if textual else WORDS["prompt"]), "--out", "out.png")
    assert refused.returncode == 2, refused.stderr
    assert ('--prompt "a red apple"' if textual else "takes no prompts") in refused.stderr
