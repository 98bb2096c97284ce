"""What a stage makes is no input from outside."""

from __future__ import annotations

import pytest

from fewstep.util.errors import SettingsError
from tasks.config import preflight


@pytest.mark.parametrize("inside", ["data/teacher", "data/teacher/unet", "data/student/unet"])
def test_an_output_of_the_pipeline_is_refused_by_name(tmp_path, inside):
    output = "/".join(inside.split("/")[:2])
    with pytest.raises(SettingsError, match=output) as caught:
        preflight._own_outputs(tmp_path, {"images": None, "teacher": tmp_path / inside, "recipe": None})
    assert "copy" in caught.value.hint
    link = tmp_path / "mine"
    link.symlink_to(inside)
    with pytest.raises(SettingsError, match=output):
        preflight._own_outputs(tmp_path, {"teacher": link})


def test_what_lies_beside_the_outputs_is_taken(tmp_path):
    beside = {"images": tmp_path / "data" / "raw", "teacher": tmp_path / "data" / "teacher-of-mine", "recipe": None}
    preflight._own_outputs(tmp_path, beside)
