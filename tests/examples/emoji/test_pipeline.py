import json

import pytest

from examples.emoji.autoencoder import AutoencoderSettings, new_autoencoder
from examples.emoji.compositions import OBJECTS
from examples.emoji.make_data import write_data
from examples.emoji.teacher import TeacherSettings, new_pipeline
from tests.project import TINY, Project

PICTURES = 160


@pytest.mark.slow
def test_emoji_yaml_takes_data_and_teacher_to_a_registered_student(font, encoder, tmp_path):
    write_data(tmp_path / "emoji", PICTURES, font=font, objects=2)
    pipe = new_pipeline(TeacherSettings(channels=(16, 32)), new_autoencoder(AutoencoderSettings(channels=(4, 8))),
                        encoder, size=32)  # fmt: skip
    pipe.save_pretrained(tmp_path / "teacher")
    project = Project(tmp_path / "project")
    assert f"{PICTURES} images" in project.check("data", "add", str(tmp_path / "emoji"))
    small = {name: value for name, value in TINY.items() if name.startswith(("trajectories", "evaluate", "register"))}
    small |= {"teacher.source": tmp_path / "teacher", "teacher.check.samples": 32, "teacher.check.steps": 4,
              "teacher.check.max_distance_ratio": 1e9, "distill.images": 64, "distill.batch": 16,
              "evaluate.samples": 32, "evaluate.batch": 16, "evaluate.steps": "[4]", "evaluate.baseline_steps": "[4]",
              "evaluate.classifier.images": 256, "evaluate.classifier.features": 4}  # fmt: skip
    sets = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    project.check("run", "--params", "examples/emoji.yaml", *sets)
    registered = json.loads((project.folder / "data/registration/registration.json").read_bytes())
    assert registered["model"] == "fewstep-emoji" and registered["version"] == 1
    shards = json.loads((project.folder / "data/shards/images.json").read_bytes())
    assert shards["class_names"] == sorted(OBJECTS[:2]) and shards["shape"] == [3, 32, 32]
