import json

import pytest
from PIL import Image

from examples.emoji import parts as parts_module
from examples.emoji.__main__ import main
from examples.emoji.autoencoder import AutoencoderSettings
from examples.emoji.settings import SIZES, STUDENTS, EmojiSettings
from examples.emoji.teacher import TeacherSettings
from fewstep.students.student import Student

MICRO = EmojiSettings(
    objects=2, pictures=42, autoencoder=AutoencoderSettings(channels=(4, 8), steps=4, batch=4),
    teacher=TeacherSettings(channels=(16, 32), images=32, batch=8), judge_pictures=48, judge_steps=3, steps=4,
    student_images=32, student_batch=8, samples=48,
)  # fmt: skip


@pytest.fixture
def command(font, encoder, monkeypatch, tmp_path):
    """Runs the example at the smallest size, with a tiny encoder; gives the exit code."""
    monkeypatch.setitem(SIZES, "micro", MICRO)
    monkeypatch.setattr(parts_module, "require", lambda: (font, encoder))

    def run(*arguments: str) -> int:
        return main([*arguments, "--size", "micro", "--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs")])

    return run


@pytest.mark.slow
def test_the_example_runs_to_its_report_and_again_without_work(command, tmp_path, monkeypatch):
    assert command("report") == 0
    text = (tmp_path / "docs/emoji.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]
    assert names[:3] == ["real pictures", "real pictures, encoded and decoded", "teacher"]
    assert names[-3:] == [f"`{recipe}`" for recipe in STUDENTS] and len(names) == 3 + 8 + 3
    assert {row.split(" | ")[1] for row in rows[4:]} == {"4"} and rows[3].split(" | ")[1] == "8"
    assert rows[1].split(" | ")[2].startswith("100.0%")
    assert text.count("– reached") + text.count("– missed") == 2 + 3 * 5
    with Image.open(tmp_path / "docs/emoji.png") as picture:
        assert picture.width > 200 and picture.height > 200
    costs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "work/costs").iterdir()}
    assert set(costs) == {"autoencoder", "pipeline", "teacher", "judge", *(f"student-{recipe}" for recipe in STUDENTS)}
    assert all(cost["done"] for cost in costs.values())

    def refused(*_arguments, **_named):
        raise AssertionError("made again")

    for name in ("train_autoencoder", "train_teacher", "fit_judge"):
        monkeypatch.setattr(parts_module, name, refused)
    again = parts_module.Parts(tmp_path / "work", MICRO)
    assert isinstance(again.student("lcm-lora"), Student) and again.judge.num_classes == 2


def test_a_work_folder_of_other_settings_and_an_unknown_part_are_refused(command, tmp_path, monkeypatch, capsys):
    assert command("nonsense") == 2
    assert "unknown part 'nonsense'" in capsys.readouterr().err
    monkeypatch.setitem(SIZES, "micro", MICRO.model_copy(update={"seed": 1}))
    assert main(["teacher", "--size", "micro", "--work", str(tmp_path / "work")]) == 2
    assert "was made with other settings" in capsys.readouterr().err
