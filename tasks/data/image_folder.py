"""Folders and tables of image files: the layouts of data/raw and of what `fewstep data add` takes. No torch here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fewstep.data.prompt import Prompt
from fewstep.data.prompt_files import is_prompt_file, parse_size, read_prompt_file
from fewstep.data.tables import named_file, read_rows, shown, text_value
from fewstep.util.errors import SettingsError
from tasks.config.schema import Data

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".jfif", ".jpe", ".avif", ".jp2", ".j2k", ".apng", ".pbm", ".pnm", ".dib", ".tga", ".qoi",
)  # fmt: skip
TABLE = "images.jsonl"
"""In data/raw: one JSON object per line with `name` and optionally `class`, and `caption` with what a prompt has."""
PROMPTS = "prompts.jsonl"
"""In data/raw: prompts without images, one JSON object per line (fewstep.data.prompt_files)."""
_PROMPT_FILES = (PROMPTS, "prompts.csv", "prompts.txt")
_TABLES = (TABLE, "metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv", "images.csv")
_COLUMNS = {
    "name": ("name", "file_name", "filename", "file", "path", "image"),
    "caption": ("caption", "text", "prompt"),
    "class": ("class", "label", "class_name"),
    "negative": ("negative", "negative_prompt"),
    "group": ("group",),
    "size": ("size",),
    "control": ("control", "control_image", "conditioning_image"),
    "mask": ("mask", "mask_image"),
}
GIVEN = ("control", "mask")
"""Columns of further images that a sample is asked for with."""
_HINT = "give a folder of CLASS/NAME.png, or a CSV or JSON-lines table with the columns name and caption (or class)"
_NOTES = (".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".pdf")
_NOTE_NAMES = ("readme", "license", "licence", "copying", "authors")
# What beside images is no image, unless it has an image's name: then it is the image's caption or mask.
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")  # made by systems, not by people; as names with a dot before
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class Item:
    """An image: `name` relative to the folder (with /), its class and its caption where there are any; with a caption
    also the negative prompt, the group and the size (height, width), as a prompt has them. control, mask: names of
    further images that it is asked for with: edges or a pose, and white where it is to be made anew."""

    name: str
    label: str | None = None
    caption: str | None = None
    negative: str | None = None
    group: str | None = None
    size: tuple[int, int] | None = None
    control: str | None = None
    mask: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Names of the further images, by column."""
        return {column: name for column in GIVEN if (name := getattr(self, column)) is not None}

    @property
    def files(self) -> list[str]:
        """Names of all files that belong to it."""
        return [self.name, *self.given.values()]

    @property
    def prompt(self) -> Prompt | None:
        """The caption as a prompt, in the group of its class where no other is told; None without a caption."""
        if self.caption is None:
            return None
        return Prompt(self.caption, self.negative, self.size, self.label if self.group is None else self.group)


@dataclass(frozen=True)
class Listing:
    """The images of a folder in a fixed order, sorted by name, and its prompts.

    Attributes:
        classes: in the order of their labels: by number where all are whole numbers, else by name; empty without.
        left_out: files in class folders that were not taken, though they may be images or belong to one.
        notes: other files that were not taken, and class folders without an image (with / at the end).
        prompts: those without an image, in their order.
    """

    folder: Path
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prompts: tuple[Prompt, ...] = ()

    @property
    def captioned(self) -> int:
        """How many images have a caption."""
        return sum(item.caption is not None for item in self.items)

    @property
    def told_left_out(self) -> str | None:
        """How many files of which kind were not taken, with an example of each; None where all were."""
        names = (*self.left_out, *self.notes)
        if not names:
            return None
        kinds: dict[str, list[str]] = {}
        for name in names:
            ending = PurePosixPath(name).suffix.lower() or "without ending"
            kind = "folder without images" if name.endswith("/") else shown(ending)
            kinds.setdefault(kind, []).append(name)
        parts = [f"{len(found)} {kind} (such as {shown(found[0])})" for kind, found in sorted(kinds.items())]
        return f"not taken: {', '.join(parts)}"

    def require_usable(self, data: Data) -> None:
        """As `require_share`, `require_classes` and `require_captions`, by the settings."""
        if data.conditions == "image":
            self.require_captions()
        for column in GIVEN:
            bare = [item.name for item in self.items if column not in item.given]
            if 0 < len(bare) < len(self.items):
                raise SettingsError(f"{shown(self.folder)}: {len(bare)} of {len(self.items)} images have no {column}, "
                                    f"such as {shown(bare[0])}; the others have one")  # fmt: skip
        self.require_share(data.max_corrupt_share)
        self.require_classes(sum(share > 0 for share in data.split.model_dump().values()))

    def require_captions(self) -> None:
        """Raises SettingsError for an image without a text, or a text without an image, where both are a condition."""
        bare = [item.name for item in self.items if item.caption is None]
        hint = "set data.conditions to text, or give every image a caption and every prompt an image"
        if bare or not self.items:
            told = f"{len(bare)} images have no caption, such as {shown(bare[0])}" if bare else "there are no images"
            raise SettingsError(f"data.conditions is image, and {told}", hint=hint)
        if self.prompts:
            raise SettingsError(f"data.conditions is image, and {len(self.prompts)} prompts have no image, such as "
                                f"{shown(self.prompts[0].text)[:60]!r}", hint=hint)  # fmt: skip

    def require_share(self, allowed: float) -> None:
        """Raises SettingsError if more than this share of the files was left out (data.max_corrupt_share)."""
        left, total = len(self.left_out), len(self.left_out) + len(self.items)
        if left > allowed * total:
            raise SettingsError(f"{shown(self.folder)}: {self.told_left_out}; that are {left} of {total} files, "
                                f"{left / total:.2%}, at most {allowed:.2%} allowed",
                                hint="convert them (to .png, say), take them out, put captions into a table, or raise "
                                     "data.max_corrupt_share")  # fmt: skip

    def require_classes(self, splits: int) -> None:
        """Raises SettingsError naming the classes of one image, which only one of several splits can have."""
        counts = Counter(item.label for item in self.items)
        single = [name for name in self.classes if counts[name] == 1]
        if single and splits > 1 and len(self.classes) > 1:
            some = ", ".join(shown(name) for name in single[:5]) + ("" if len(single) <= 5 else ", …")
            raise SettingsError(f"{shown(self.folder)}: one image only in {len(single)} of {len(self.classes)} classes "
                                f"({some}); there are {splits} splits, and a class can be learnt and measured only "
                                "where each has some of it", hint="add images of it, or leave the class out")


def list_images(path: Path | str) -> Listing:
    """The images and prompts of `path`: a folder of CLASS/NAME.png, a table, alone or in a folder, or a file of
    prompts.

    A folder may hold prompts beside its images (prompts.jsonl, .csv or .txt). Links are followed. What was not taken is
    named in the listing.

    Raises:
        SettingsError: missing, empty, or not one of these layouts; links in a circle; a name that is not UTF-8; a table
            that names what is not there, names something twice, leaves its folder, holds what is no text, or gives
            some images a class and others none; what `read_prompt_file` refuses.
    """
    path = Path(path)
    left_out: list[str] = []
    notes: list[str] = []
    prompts: tuple[Prompt, ...] = ()
    try:
        if not path.exists():
            raise SettingsError(f"{shown(path)}: no such folder or table", hint=_HINT)
        folder = path if path.is_dir() else path.parent
        if path.is_dir():
            table, texts = (next((path / name for name in names if (path / name).is_file()), None)
                            for names in (_TABLES, _PROMPT_FILES))
            items, prompts = _from_prompts(texts) if texts else ((), ())
            if table:
                items += tuple(_from_table(table))
            if table or items:
                # a table says which images are meant
                meant = {name for item in items for name in item.files}
                notes += [name for name, _ in _files(path) if name not in meant]
            else:
                items = tuple(_from_folders(path, left_out, notes))
            notes = [name for name in notes if name not in {file.name for file in (table, texts) if file}]
        elif is_prompt_file(path):
            items, prompts = _from_prompts(path)
        else:
            items = tuple(_from_table(path))
    except OSError as error:
        raise SettingsError(f"{shown(error.filename or path)}: cannot be read: {error.strerror or error}") from None
    if not items and not prompts:
        listing = Listing(folder, (), (), tuple(left_out), tuple(notes))
        told = f"; {listing.told_left_out}" if left_out or notes else ""
        raise SettingsError(f"{shown(path)}: no images there ({', '.join(SUFFIXES)}){told}", hint=_HINT)
    items = tuple(sorted(items, key=lambda item: item.name))
    without = [item.name for item in items if item.label is None]
    classes = _in_order({item.label for item in items if item.label is not None})
    if classes and without:
        raise SettingsError(f"{shown(path)}: {len(without)} images have no class, such as {shown(without[0])}; "
                            "the others have one")
    return Listing(folder, items, classes, tuple(left_out), tuple(notes), prompts)


def _from_prompts(path: Path) -> tuple[tuple[Item, ...], tuple[Prompt, ...]]:
    """The images that a file of prompts names, and its prompts without an image."""
    found = read_prompt_file(path)
    items: dict[str, Item] = {}
    for entry in found.entries:
        if entry.image in items:
            raise SettingsError(f"{shown(path)}: line {entry.line}: {shown(entry.image)} is there twice")
        if entry.image is not None:
            prompt = entry.prompt
            items[entry.image] = Item(entry.image, None, prompt.text, prompt.negative, prompt.group, prompt.size)
    return tuple(items.values()), found.prompts


def _in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """By number where all names are whole numbers, so that folder 2 is before folder 10; else by name."""
    classes = sorted(classes)
    if all(_WHOLE_NUMBER.fullmatch(name) for name in classes):
        classes = sorted(classes, key=int)
    return tuple(classes)


def _from_folders(folder: Path, left_out: list[str], notes: list[str]) -> Iterator[Item]:
    """The images below class folders; names of other files are appended to `left_out` and `notes`."""
    found = sorted(_files(folder))
    images = {name for name, there in found if there and PurePosixPath(name).suffix.lower() in SUFFIXES}
    loose = [name for name, _ in found if "/" not in name and name in images]
    if loose:
        raise SettingsError(f"{shown(folder)}: {shown(loose[0])} lies in no class folder, and there is no table",
                            hint=_HINT)
    stems = {str(PurePosixPath(name).with_suffix("")) for name in images}
    for name, _ in found:
        path = PurePosixPath(name)
        if name in images:
            yield Item(name, path.parts[0])
        elif "/" not in name or _is_note(path) and str(path.with_suffix("")) not in stems:
            notes.append(name)
        else:
            left_out.append(name)
    with_images = {PurePosixPath(name).parts[0] for name in images}
    notes += [f"{entry.name}/" for entry in sorted(folder.iterdir())
              if entry.is_dir() and entry.name not in with_images and not _is_hidden(entry.name)]


def _is_note(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _NOTES or path.stem.lower() in _NOTE_NAMES


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _files(folder: Path) -> Iterator[tuple[str, bool]]:
    """All files below `folder`: (name relative to it, whether it is there), links followed; hidden ones left out."""
    whole = os.path.realpath(folder)
    waiting = [("", (whole,))]
    while waiting:
        base, above = waiting.pop()
        with os.scandir(folder / base) as entries:
            found = sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name)
        for entry in found:
            name = f"{base}{entry.name}"
            try:
                name.encode()
            except UnicodeEncodeError:
                raise SettingsError(f"{shown(folder)}: the name {os.fsencode(name)!r} is not UTF-8",
                                    hint="rename it") from None
            if not entry.is_dir():
                yield name, entry.is_file()
                continue
            place = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
            if place in above or Path(whole).is_relative_to(place):
                raise SettingsError(f"{shown(folder)}: {shown(name)} is a link to a folder that holds it",
                                    hint="remove the link")
            waiting.append((f"{name}/", (*above, place)))


def _from_table(table: Path) -> Iterator[Item]:
    seen: set[str] = set()
    for line, row in read_rows(table, _HINT):
        at = f"{shown(table)}: line {line}"
        text, caption, label, negative, group, size, *given = (
            text_value(table, line, row, names, number=kind in ("class", "group", "size"))
            for kind, names in _COLUMNS.items())
        if table.name != TABLE:
            size = None                 # in tables of others it may be that of the file
        if text is None:
            raise SettingsError(f"{at} has no name (columns: {shown(', '.join(map(str, row)))})", hint=_HINT)
        name, control, mask = (None if one is None else named_file(table, at, one) for one in (text, *given))
        if name in seen:
            raise SettingsError(f"{at}: {shown(text)} is there twice")
        seen.add(name)
        if label is None and caption is None:
            raise SettingsError(f"{at}: neither caption nor class", hint=_HINT)
        yield Item(name, label, caption, negative, group, size and parse_size(table, line, size), control, mask)
