"""Folders and tables of images: what is taken, what is named, in which order."""

import os
from pathlib import Path

import pytest

from fewstep.util.errors import SettingsError
from tasks.config.schema import Data
from tasks.data.image_folder import Item, list_images
from tasks.data.import_images import add_images


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def table(folder: Path, name: str, content: str | bytes) -> Path:
    write(folder, "1.png", "2.png")
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def test_links_are_followed(tmp_path):
    write(tmp_path / "elsewhere", "owl/0.png", "deep/1.png")
    images = write(tmp_path / "images", "cat/0.png")
    (images / "owl").symlink_to(tmp_path / "elsewhere" / "owl")
    (images / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "deep")
    (images / "cat" / "one.png").symlink_to(tmp_path / "elsewhere" / "owl" / "0.png")
    listing = list_images(images)
    assert [item.name for item in listing.items] == ["cat/0.png", "cat/more/1.png", "cat/one.png", "owl/0.png"]
    assert listing.classes == ("cat", "owl") and listing.told_left_out is None
    add_images(images, tmp_path / "raw")
    assert not any(path.is_symlink() for path in (tmp_path / "raw").rglob("*"))


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../dog"])
def test_links_in_a_circle(tmp_path, target):
    images = write(tmp_path / "images", "cat/0.png", "dog/0.png")
    (images / "cat" / "round").symlink_to(target)
    (images / "dog" / "round").symlink_to("../cat")
    with pytest.raises(SettingsError, match="round is a link to a folder that holds it"):
        list_images(images)


@pytest.mark.parametrize("ending", ["jfif", "JFIF", "avif", "jp2", "jpe"])
def test_further_endings_are_taken(tmp_path, ending):
    assert len(list_images(write(tmp_path, f"a/1.{ending}")).items) == 1


@pytest.mark.parametrize("name", ["dog/1.heic", "dog/1", "dog/0.txt", "dog/1.npy", "dog/1.png.part", "dog/gone.png"])
def test_what_may_be_an_image_counts(tmp_path, name):
    images = write(tmp_path / "images", "dog/0.png", "cat/0.png", "cat/1.png")
    if "gone" in name:
        (images / name).symlink_to(tmp_path / "nowhere")
    else:
        write(images, name)
    listing = list_images(images)
    assert listing.left_out == (name,) and name in listing.told_left_out
    listing.require_share(0.25)
    with pytest.raises(SettingsError, match=f"{name}.*1 of 4 files, 25.00%, at most 1.00% allowed"):
        add_images(images, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    assert add_images(images, tmp_path / "raw", max_left_out=0.3).left_out == (name,)


def test_notes_are_named_and_systems_files_are_not(tmp_path):
    images = write(tmp_path, "dog/0.png", "README", "dog/notes.md", "dog/Thumbs.db", "dog/.DS_Store", "__MACOSX/x.png")
    (images / "owl").mkdir()
    listing = list_images(images)
    assert listing.left_out == () and set(listing.notes) == {"README", "dog/notes.md", "owl/"}
    listing.require_share(0)


def test_images_beside_a_table_are_named(tmp_path):
    table(tmp_path, "metadata.csv", "name,caption\n1.png,x\n")
    assert list_images(tmp_path).notes == ("2.png",)


def test_names_that_are_not_utf8_change_nothing(tmp_path):
    images = write(tmp_path / "images", "a/0.png", "a/1.png")
    for old, new in ((b"/a/0.png", b"/a/caf\xe9.png"), (b"/a", b"/caf\xe9")):
        os.rename(os.fsencode(images) + old, os.fsencode(images) + new)
        with pytest.raises(SettingsError, match=r"caf\\xe9.* is not UTF-8"):
            add_images(images, tmp_path / "raw")
        assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [
    ("t.jsonl", '{"name": "1.png", "caption": "größer"}\n{"name": "2.png", "caption": "b\u2028c"}\n'),
    ("t.csv", "name,caption\r\n1.png,größer\r\n2.png,b\u2028c\r\n"),
])  # fmt: skip
def test_byte_order_marks(tmp_path, name, text, encoding):
    listing = list_images(table(tmp_path, name, text.encode(encoding)))
    assert listing.items == (Item("1.png", None, "größer"), Item("2.png", None, "b\u2028c"))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("t.csv", b"name,caption\n1.png,ok\n2.png,caf\xe9\n", "line 3, column 10: byte 0xe9 is not UTF-8"),
    ("t.jsonl", b'{"name": "1.png"}\n"\xff', "line 2, column 2: byte 0xff"),
    ("t.jsonl", b"\xff\xfe\x00\xd8", "line 1, column 1: .*UTF-16"),
    ("t.jsonl", '{"name": "1.png", "caption": ["a", "b"]}', r"line 1, column 'caption': expected a text, got \[\"a\""),
    ("t.jsonl", '{"name": "1.png", "class": {"a": 1}}', "line 1, column 'class': expected a text or a whole number"),
    ("t.jsonl", '{"name": "1.png", "class": true}', "expected a text or a whole number, got true"),
    ("t.jsonl", '{"name": "1.png", "label": 1.5}', "column 'label': .* got 1.5"),
    ("t.jsonl", '{"name": 1, "caption": "x"}', "column 'name': expected a text, got 1"),
    ("t.jsonl", '{"name": "1.png", "caption": "\\ud800"}', "line 1, column 'caption': .*ud800 is not Unicode"),
    ("t.jsonl", '{"name": "1.png", "caption": "x"}\n\n{"name" "2.png"}', "line 3, column 9: Expecting ':'"),
    ("t.jsonl", '{"name": "1.png", "caption": "x"}\n' + "[" * 100_000, "line 2 is nested too deeply"),
    ("t.jsonl", '{"name": "' + "x" * 5000 + '", "caption": "x"}', "line 1: x{80}: File name too long"),
    ("t.jsonl", '{"name": "1.png\\u0000", "caption": "x"}', r"line 1: 1.png\\x00 is not there"),
    ("t.csv", "name,caption\n1.png,red, small\n", "line 2 has more columns"),
    ("t.csv", "name,caption\n1.png,\"" + "x" * 200_000 + "\"\n", "field larger"),
])  # fmt: skip
def test_text_that_is_not_what_was_expected(tmp_path, name, content, said):
    with pytest.raises(SettingsError, match=said):
        list_images(table(tmp_path, name, content))


def test_numbers_as_classes(tmp_path):
    rows = "".join(f'{{"name": "{k}.png", "label": {label}}}\n' for k, label in ((1, 10), (2, 9)))
    assert list_images(table(tmp_path, "t.jsonl", rows)).classes == ("9", "10")


@pytest.mark.parametrize(("names", "order"), [
    ([str(k) for k in range(12)], [str(k) for k in range(12)]),
    (["010", "9", "-1"], ["-1", "9", "010"]),
    (["10", "9", "a"], ["10", "9", "a"]),
    (["10", "9", "²"], ["10", "9", "²"]),
    (["9" * 40, "10"], ["10", "9" * 40]),
])  # fmt: skip
def test_the_order_of_classes(tmp_path, names, order):
    assert list(list_images(write(tmp_path, *(f"{name}/0.png" for name in names))).classes) == order


def test_classes_with_one_image_are_named(tmp_path):
    many = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(9)]
    listing = list_images(write(tmp_path, *many, "owl/0.png"))
    with pytest.raises(SettingsError, match=r"one image only in 1 of 3 classes \(owl\)"):
        listing.require_usable(Data())
    listing.require_usable(Data(split={"train": 1, "fit": 0, "test": 0}))


def test_a_link_to_itself(tmp_path):
    images = write(tmp_path / "images", "a/0.png")
    (images / "a" / "self").symlink_to("self")
    with pytest.raises(SettingsError, match="a/self: cannot be read: Too many levels of symbolic links"):
        list_images(images)
