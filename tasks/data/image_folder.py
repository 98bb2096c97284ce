"""Folders and tables of image files: the layouts of data/raw and of what `fewstep data add` takes. No torch here."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fewstep.util.errors import SettingsError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TABLE = "images.jsonl"
"""In data/raw: one JSON object per line with `name` and optionally `class` and `caption`."""
_TABLES = (TABLE, "metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv", "images.csv")
_COLUMNS = {
    "name": ("name", "file_name", "filename", "file", "path", "image"),
    "caption": ("caption", "text", "prompt"),
    "class": ("class", "label", "class_name"),
}
_HINT = "give a folder of CLASS/NAME.png, or a CSV or JSON-lines table with the columns name and caption (or class)"


@dataclass(frozen=True)
class Item:
    """An image: `name` relative to the folder (with /), its class and its caption where there are any."""

    name: str
    label: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Listing:
    """The images of a folder in a fixed order: sorted by name. `classes` is sorted, empty without classes."""

    folder: Path
    items: tuple[Item, ...]
    classes: tuple[str, ...]

    @property
    def captioned(self) -> int:
        """How many images have a caption."""
        return sum(item.caption is not None for item in self.items)


def list_images(path: Path | str) -> Listing:
    """The images of `path`: a folder of CLASS/NAME.png, a folder with a table, or a table.

    Raises:
        SettingsError: missing, empty, or not one of these layouts; a table that names what is not there, names
            something twice, leaves its folder, or gives some images a class and others none.
    """
    path = Path(path)
    if not path.exists():
        raise SettingsError(f"{path}: no such folder or table", hint=_HINT)
    if path.is_dir():
        table = next((path / name for name in _TABLES if (path / name).is_file()), None)
        items = tuple(_from_table(table)) if table else tuple(_from_folders(path))
        folder = path
    else:
        items, folder = tuple(_from_table(path)), path.parent
    if not items:
        raise SettingsError(f"{path}: no images there ({', '.join(SUFFIXES)})", hint=_HINT)
    items = tuple(sorted(items, key=lambda item: item.name))
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    without = [item.name for item in items if item.label is None]
    if classes and without:
        raise SettingsError(f"{path}: {len(without)} images have no class, such as {without[0]}; the others have one")
    return Listing(folder, items, classes)


def _from_folders(folder: Path) -> Iterator[Item]:
    loose = [entry.name for entry in sorted(folder.iterdir()) if _is_image(entry)]
    if loose:
        raise SettingsError(f"{folder}: {loose[0]} lies in no class folder, and there is no table", hint=_HINT)
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            path = Path(base, file)
            if _is_image(path):
                name = path.relative_to(folder).as_posix()
                yield Item(name, PurePosixPath(name).parts[0])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _rows(table: Path) -> Iterator[tuple[int, dict]]:
    try:
        if table.suffix.lower() == ".csv":
            with open(table, newline="", encoding="utf-8-sig") as file:
                yield from enumerate(csv.DictReader(file), 2)
        elif table.suffix.lower() in (".jsonl", ".ndjson", ".json"):
            with open(table, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise ValueError(f"line {number} is not an object")
                        yield number, row
        else:
            raise SettingsError(f"{table}: not a table", hint=_HINT)
    except (ValueError, csv.Error, RecursionError) as error:
        raise SettingsError(f"{table}: not readable: {' '.join(str(error).split())}", hint=_HINT) from None


def _from_table(table: Path) -> Iterator[Item]:
    seen: set[str] = set()
    for line, row in _rows(table):
        columns = {k: next((c for c in names if row.get(c) not in (None, "")), None) for k, names in _COLUMNS.items()}
        if columns["name"] is None:
            raise SettingsError(f"{table}: line {line} has no name (columns: {', '.join(map(str, row))})", hint=_HINT)
        text = str(row[columns["name"]])
        name = PurePosixPath(text.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise SettingsError(f"{table}: line {line}: {text!r} leaves the table's folder; names are relative to it")
        if not (table.parent / name).is_file():
            raise SettingsError(f"{table}: line {line}: {text} is not there")
        if str(name) in seen:
            raise SettingsError(f"{table}: line {line}: {text} is there twice")
        seen.add(str(name))
        label, caption = (row[columns[kind]] if columns[kind] else None for kind in ("class", "caption"))
        if label is None and caption is None:
            raise SettingsError(f"{table}: line {line}: neither caption nor class", hint=_HINT)
        yield Item(str(name), None if label is None else str(label), None if caption is None else str(caption))
