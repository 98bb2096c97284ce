"""`fewstep data add`: whole or not at all, and recorded by DVC."""

import json
import os
from pathlib import Path

import pytest

from fewstep.data.prompt import Prompt
from fewstep.util.errors import SettingsError
from tasks.data.image_folder import list_images
from tasks.data.import_images import add_images, complete_swap
from tests.project import Project


def write(folder: Path, **content: str) -> Path:
    for name, text in content.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(path.name.replace("_png", ".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def raw(tmp_path) -> Path:
    add_images(write(tmp_path / "first", rose__a_png="1", tulip__b_png="2"), tmp_path / "data" / "raw")
    return tmp_path / "data" / "raw"


def test_classes_are_copied_and_more_are_added(tmp_path, raw):
    listing = add_images(write(tmp_path / "more", rose__c_png="3", iris__d_png="4", rose__a_png="1"), raw)
    assert listing.classes == ("iris", "rose", "tulip")
    assert content(raw) == {"iris/d.png": "4", "rose/a.png": "1", "rose/c.png": "3", "tulip/b.png": "2"}
    assert sorted(os.listdir(raw.parent)) == ["raw"]


def test_another_image_of_the_same_name_changes_nothing(tmp_path, raw):
    before = content(raw)
    with pytest.raises(SettingsError, match="rose/a.png: another image"):
        add_images(write(tmp_path / "more", rose__a_png="other", iris__d_png="4"), raw)
    assert content(raw) == before and sorted(os.listdir(raw.parent)) == ["raw"]
    add_images(tmp_path / "more", raw, replace=True)
    assert content(raw) == {"iris/d.png": "4", "rose/a.png": "other"}


def test_a_table_keeps_captions_and_classes(tmp_path, raw):
    folder = write(tmp_path / "table", x__1_png="1", x__2_png="2")
    (folder / "captions.csv").write_text('name,caption,class\nx/1.png,"red, small",warm\nx/2.png,blue,cold\n')
    listing = add_images(folder / "captions.csv", raw)
    assert {item.name: (item.label, item.caption) for item in listing.items} == {
        "rose/a.png": ("rose", None), "tulip/b.png": ("tulip", None),
        "x/1.png": ("warm", "red, small"), "x/2.png": ("cold", "blue"),
    }  # fmt: skip
    (folder / "captions.csv").write_text("name,caption\nx/1.png,red\nx/2.png,blue\n")
    with pytest.raises(SettingsError, match="only one of the old and the new"):
        add_images(folder, raw)
    listing = add_images(folder, raw, replace=True)
    assert listing.classes == () and listing.captioned == 2


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("t.csv", "name,caption\n../secret.png,x\n", "leaves the table's folder"),
        ("t.csv", "name,caption\n/etc/passwd,x\n", "leaves the table's folder"),
        ("t.csv", "name,caption\nnone.png,x\n", "line 2: none.png is not there"),
        ("t.csv", "name,caption\n1.png,x\n1.png,y\n", "line 3: 1.png is there twice"),
        ("t.csv", "picture,words\n1.png,x\n", "line 2 has no name"),
        ("t.csv", "name,caption\n1.png,\n", "neither caption nor class"),
        ("t.csv", "name,class\n1.png,a\n2.png,\n", "neither caption nor class"),
        ("t.jsonl", '{"name": "1.png", "caption": "x"}\n{"name": \n', "not readable"),
        ("t.jsonl", "[1]\n", "line 1 is not an object"),
        ("t.jsonl", '{"name": "1.png", "class": "a"}\n{"name": "2.png", "caption": "b"}\n', "1 images have no class"),
        ("t.csv", "", "no images there"),
        ("t.tsv", "1.png", "not a table"),
    ],
)
def test_bad_tables(tmp_path, name, table, said):
    folder = write(tmp_path / "images", **{"1_png": "1", "2_png": "2"})
    (folder / name).write_text(table)
    with pytest.raises(SettingsError, match=said):
        add_images(folder / name, tmp_path / "data" / "raw")
    assert not (tmp_path / "data").exists()


def test_bad_folders(tmp_path):
    with pytest.raises(SettingsError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="no images there"):
        list_images(write(tmp_path / "texts", a__b="x"))
    with pytest.raises(SettingsError, match="1.png lies in no class folder"):
        list_images(write(tmp_path / "loose", **{"1_png": "1"}))


def test_what_a_kill_leaves_is_set_right(tmp_path, raw):
    before = content(raw)
    os.rename(raw, raw.with_name(".raw.old"))
    write(raw.with_name(".raw.new"), half__x_png="x")
    complete_swap(raw)
    assert content(raw) == before and sorted(os.listdir(raw.parent)) == ["raw"]


def test_the_command_records_in_dvc(tmp_path):
    project = Project(tmp_path / "project")
    images = write(tmp_path / "images", rose__a_png="1", tulip__b_png="2")
    done = json.loads(project.check("data", "add", str(images), "--json"))
    assert done["images"] == 2 and done["classes"] == ["rose", "tulip"] and done["source"] == "digits"
    record = (project.folder / "data" / "raw.dvc").read_text()
    assert "path: raw" in record and "nfiles: 2" in record
    assert content(project.folder / "data" / "raw") == {"rose/a.png": "1", "tulip/b.png": "2"}
    out = project.check("data", "add", str(write(tmp_path / "images", iris__c_png="3")))
    assert "3 images, 3 classes" in out and "data.source=raw" in out
    assert (project.folder / "data" / "raw.dvc").read_text() != record
    wrong = project.run("data", "add", str(tmp_path / "nowhere"))
    assert wrong.returncode == 2 and "no such folder" in wrong.stderr


def test_prompts_are_brought_with_their_images_or_without(tmp_path, raw):
    folder = write(tmp_path / "texts", x__1_png="1")
    (folder / "p.csv").write_text("prompt,negative,group,size,image\na door,dark,things,64x32,\n"
                                  "an apple,,fruit,,x/1.png\n")
    (tmp_path / "more.txt").write_text("a cat\na door\n")
    with pytest.raises(SettingsError, match="only one of the old and the new images have classes"):
        add_images(folder / "p.csv", raw)
    add_images(folder / "p.csv", raw, replace=True)
    listing = add_images(tmp_path / "more.txt", raw)
    assert [(p.text, p.negative, p.group, p.size) for p in listing.prompts] == [
        ("a door", "dark", "things", (32, 64)), ("a cat", None, None, None), ("a door", None, None, None)]
    assert [(item.name, item.prompt) for item in listing.items] == [("x/1.png", Prompt("an apple", group="fruit"))]
    assert listing.items[0].group == "fruit" and listing.told_left_out is None
    (tmp_path / "more.csv").write_text("prompt,group\na cat,animals\n")
    before = content(raw)
    with pytest.raises(SettingsError, match="'a cat' is there in group None, not 'animals'"):
        add_images(tmp_path / "more.csv", raw)
    assert content(raw) == before


def test_prompts_alone_are_data(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na door\n")
    listing = add_images(tmp_path / "p.txt", tmp_path / "data" / "raw")
    assert [prompt.text for prompt in listing.prompts] == ["a cat", "a door"] and not listing.items
    assert sorted(content(tmp_path / "data" / "raw")) == ["prompts.jsonl"]
