"""Files of prompts: a text with one prompt a line, or a table. No torch here."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from fewstep.data.prompt import Prompt
from fewstep.data.tables import ENDINGS, named_file, read_rows, read_text, shown, text_value
from fewstep.util.errors import SettingsError
from fewstep.util.pixel_sizes import PATTERN, size_of_text

COLUMNS = {"prompt": ("prompt", "caption", "text"), "negative": ("negative", "negative_prompt"), "group": ("group",),
           "size": ("size",), "image": ("image",)}  # fmt: skip
HINT = ("give a .txt with one prompt a line, or a .csv or .jsonl with a column prompt (or caption) and, where wanted, "
        "negative, group, size and image")
_OF_IMAGES = ("name", "file_name", "filename", "file", "path", "class", "label", "class_name")
_ALIKE = 0.8    # of a column's name to a known one, to be taken for its misspelling
_SIZE = re.compile(PATTERN)


@dataclass(frozen=True)
class Entry:
    """A prompt of a file, the line it stands on, and the name of its image relative to the file, where it has one."""

    prompt: Prompt
    line: int
    image: str | None = None


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, in its order.

    Attributes:
        entries: a prompt that is there twice without an image is taken once.
        repeated: how many lines said what an earlier line had said.
        ignored: columns that say nothing about a prompt.
    """

    path: Path
    entries: tuple[Entry, ...]
    repeated: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Those without an image."""
        return tuple(entry.prompt for entry in self.entries if entry.image is None)

    @property
    def told(self) -> str | None:
        """What of the file was not taken, in words; None where all was."""
        parts = [f"{self.repeated} lines that repeat another"] if self.repeated else []
        parts += [f"the columns {', '.join(map(shown, self.ignored))}"] if self.ignored else []
        return f"not taken of {shown(self.path.name)}: {', '.join(parts)}" if parts else None


def is_prompt_file(path: Path | str) -> bool:
    """Whether a file is one of prompts: a .txt, or a table with a column of prompts and none of names or classes, which
    tables of images have. Raises SettingsError for a table that is not readable."""
    path = Path(path)
    ending = path.suffix.lower()
    if not path.is_file() or ending not in (".txt", *ENDINGS):
        return False
    if ending == ".txt":
        return True
    columns = set(next(read_rows(path, HINT), (0, {}))[1])
    return bool(columns & set(COLUMNS["prompt"])) and not columns & set(_OF_IMAGES)


def read_prompt_file(path: Path | str) -> PromptFile:
    """The prompts of a .txt (one a line), .csv or .jsonl.

    Columns of a table: `prompt` (or `caption`, `text`); `negative`; `group`; `size` in pixels, WIDTHxHEIGHT or one
    number for both; `image`, a file relative to the table. Only the first is needed.

    Raises:
        SettingsError: naming file, line and column: missing, empty, an empty line or prompt, a column that is not there
            or is misspelt, a size that is none, an image that is not there, or one prompt in two groups.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if not path.is_file():
        raise SettingsError(f"{shown(path)}: no such file of prompts", hint=HINT)
    if ending not in (".txt", *ENDINGS):
        raise SettingsError(f"{shown(path)}: no file of prompts ({ending or 'no ending'})", hint=HINT)
    try:
        entries, ignored = (_lines(path), ()) if ending == ".txt" else _table(path)
    except OSError as error:
        raise SettingsError(f"{shown(path)}: cannot be read: {error.strerror or error}") from None
    if not entries:
        raise SettingsError(f"{shown(path)}: no prompts there", hint=HINT)
    kept: dict[tuple[Prompt, str | None], Entry] = {}
    first: dict[Prompt, Entry] = {}
    for entry in entries:
        known = first.setdefault(entry.prompt, entry)
        if None not in (known.prompt.group, entry.prompt.group) and known.prompt.group != entry.prompt.group:
            raise SettingsError(f"{shown(path)}: line {entry.line}, column 'group': the prompt of line {known.line} "
                                f"again, in group {shown(entry.prompt.group)!r} where it was in "
                                f"{shown(known.prompt.group)!r}", hint="a prompt belongs to one group")
        kept.setdefault((entry.prompt, entry.image), entry)
    return PromptFile(path, tuple(kept.values()), len(entries) - len(kept), ignored)


def _lines(path: Path) -> list[Entry]:
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1].strip():
        lines.pop()                                     # the end of the last line
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise SettingsError(f"{shown(path)}: line {number} is empty", hint="one prompt a line")
        found.append(Entry(Prompt(line.strip()), number))
    return found


def _table(path: Path) -> tuple[list[Entry], tuple[str, ...]]:
    known = tuple(name for names in COLUMNS.values() for name in names)
    columns: dict[str, None] = {}
    found = []
    for line, row in read_rows(path, HINT):
        columns |= dict.fromkeys(name for name in row if name is not None)
        if not set(row) & set(COLUMNS["prompt"]):
            raise SettingsError(f"{shown(path)}: line {line}: no column prompt or caption (columns: "
                                f"{shown(', '.join(map(str, row)))})", hint=HINT)
        found.append(_entry(path, line, row))
    ignored = tuple(name for name in columns if name not in known)
    for name in ignored:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=_ALIKE)
        if close:
            raise SettingsError(f"{shown(path)}: line 1, column {shown(name)!r}: unknown; did you mean {close[0]!r}?",
                                hint="rename it, or leave the column out")
    return found, ignored


def _entry(path: Path, line: int, row: dict) -> Entry:
    text, negative, group, size, image = (
        text_value(path, line, row, names, number=kind in ("group", "size")) for kind, names in COLUMNS.items())
    if text is None or not text.strip():
        column = next(name for name in COLUMNS["prompt"] if name in row)
        raise SettingsError(f"{shown(path)}: line {line}, column {column!r}: empty",
                            hint="every row has a prompt; take the row out, or say what it asks for")
    if image is not None:
        image = named_file(path, f"{shown(path)}: line {line}, column 'image'", image)
    negative, group = (value.strip() or None if value else None for value in (negative, group))
    return Entry(Prompt(text.strip(), negative, size and parse_size(path, line, size), group), line, image)


def parse_size(path: Path, line: int, text: str) -> tuple[int, int]:
    """(height, width) in pixels of `WIDTHxHEIGHT`, or of one number for both. Raises SettingsError."""
    told = text.strip().lower()
    told = told if "x" in told else f"{told}x{told}"
    if _SIZE.fullmatch(told) is None:
        raise SettingsError(f"{shown(path)}: line {line}, column 'size': {shown(text)[:40]!r} is no size",
                            hint="pixels as WIDTHxHEIGHT, such as 1024x768, or one number for both")
    return size_of_text(told)
