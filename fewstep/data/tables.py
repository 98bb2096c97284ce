"""Tables that people write: CSV and JSON lines, row by row, with the line that an error is at. No torch here."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from fewstep.util.errors import SettingsError

ENDINGS = (".csv", ".jsonl", ".ndjson", ".json")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def shown(text: object) -> str:
    """A name or path as it can be printed in one line: what is no printable text is escaped."""
    text = str(text)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte-order mark. Raises SettingsError at the byte that is neither."""
    data = path.read_bytes()
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark):]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding)
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise SettingsError(f"{shown(path)}: line {line}, column {column}: byte 0x{data[error.start]:02x} is not "
                            f"{encoding.upper()}", hint="save the file as UTF-8") from None


def read_rows(table: Path, hint: str) -> Iterator[tuple[int, dict]]:
    """Rows by name of column, with the number of their last line.

    Raises SettingsError, with the line, for what is no table; `hint` says what would be one.
    """
    ending, line = table.suffix.lower(), 0
    if ending not in ENDINGS:
        raise SettingsError(f"{shown(table)}: not a table", hint=hint)
    text = read_text(table)
    try:
        if ending == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""))
            for row in reader:
                line = reader.line_num
                if None in row:
                    raise ValueError(f"line {line} has more columns than the first line; "
                                     "text with commas stands in quotation marks")
                yield line, row
        else:
            for line, content in enumerate(io.StringIO(text, newline=None), 1):
                if content.strip():
                    row = json.loads(content)
                    if not isinstance(row, dict):
                        raise ValueError(f"line {line} is not an object")
                    yield line, row
    except json.JSONDecodeError as error:
        raise SettingsError(f"{shown(table)}: not readable: line {line}, column {error.colno}: {error.msg}",
                            hint=hint) from None
    except RecursionError:
        raise SettingsError(f"{shown(table)}: not readable: line {line} is nested too deeply", hint=hint) from None
    except (ValueError, csv.Error) as error:
        said = " ".join(str(error).split())
        at = "" if said.startswith("line ") else f"line {line}: " if ending != ".csv" else f"after line {line}: "
        raise SettingsError(f"{shown(table)}: not readable: {at}{said}", hint=hint) from None


def text_value(table: Path, line: int, row: dict, columns: Sequence[str], *, number: bool = False) -> str | None:
    """What a row says in the first of `columns` that says anything; None where none does.

    `number`: whether a whole number is taken too. Raises SettingsError, with line and column, for what is no text.
    """
    column = next((name for name in columns if row.get(name) not in (None, "")), None)
    if column is None:
        return None
    value, expected = row[column], "a text or a whole number" if number else "a text"
    if number and type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise SettingsError(f"{shown(table)}: line {line}, column {column!r}: expected {expected}, got "
                            f"{shown(json.dumps(value))[:80]}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{shown(table)}: line {line}, column {column!r}: {shown(value)[:80]} is not Unicode "
                            "text") from None
    return value


def named_file(table: Path, at: str, text: str) -> str:
    """The name, relative to the table's folder, of a file that a row names. at: file, line and column in words. Raises
    SettingsError where it is not there, or elsewhere."""
    name = PurePosixPath(text.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise SettingsError(f"{at}: {text!r} leaves the table's folder; names are relative to it")
    try:
        there = (table.parent / name).is_file()
    except OSError as error:
        raise SettingsError(f"{at}: {shown(text)[:80]}: {error.strerror}") from None
    if not there:
        raise SettingsError(f"{at}: {shown(text)} is not there")
    return str(name)
