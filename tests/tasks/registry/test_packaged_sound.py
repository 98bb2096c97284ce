"""The registered form of students of sound: samples have channels, whatever the pipeline returns."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest
import torch

from fewstep.students.export import export_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import load_teacher
from tasks.registry.packaged.pyfunc_model import package, tree_digest
from tests.fewstep.families.pipelines import KINDS, Kind
from tests.fewstep.families.test_audio_ldm import LENGTH, audio_ldm
from tests.pipeline.own_samples import Own
from tests.pipeline.tiny_runs import TEXTS

SOUND = {"stable_audio": (KINDS["stable_audio"], 2), "audio_ldm": (Kind(audio_ldm, LENGTH), 1)}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_is_samples_channels_and_length(kind, tmp_path):
    one, channels = SOUND[kind]
    one.save(tmp_path / "teacher")
    with torch.no_grad():
        student = make_student(load_teacher(tmp_path / "teacher", arguments=one.arguments), StudentSettings(steps=2))
        export_student(student, tmp_path / "pipeline", teacher=tmp_path / "teacher")
    folder = Path(tmp_path / "pipeline")
    package(folder, tree_digest(folder), tmp_path / "model", run_id="", model_id="")
    asked = pandas.DataFrame({"prompt": TEXTS, "seed": [5, 6]})
    drawn = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(asked)
    own = Own(folder).drawn({"prompt": TEXTS}, [5, 6]).numpy()
    assert drawn.shape == own.shape and drawn.shape[:2] == (2, channels)
    assert np.allclose(drawn, own, atol=1e-4) and drawn.dtype == np.float32
