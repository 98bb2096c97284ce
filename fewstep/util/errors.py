"""The errors people meet: one clear line each, an optional hint what to do, and an exit code for the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager


def printable(text: str) -> str:
    """`text` with an escape in place of what cannot be printed: names of files and keys may hold anything."""
    return text if text.isprintable() else "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


class FewstepError(Exception):
    """Base of every error that is no bug. `str(error)` is one line: what happened and where; `hint` says what to do.

    `more`: further problems, a line each. A line break inside a text is a name's, and is escaped.
    """

    exit_code = 1

    def __init__(self, message: str, *more: str, hint: str | None = None):
        super().__init__("\n".join(map(printable, (message, *more))))
        self.hint = hint

    def __reduce__(self):
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type, args: tuple, attributes: dict) -> Exception:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


def to_json(error: FewstepError) -> str:
    """The error for another process of ours, as `from_json` reads it."""
    return json.dumps({"kind": type(error).__name__, "args": error.args, "attributes": error.__dict__})


def from_json(text: str) -> FewstepError:
    """The error that `to_json` wrote; of a kind that this module does not define, a FewstepError of its words."""
    found = json.loads(text)
    kind = globals().get(found["kind"], FewstepError)
    return _rebuild(kind, tuple(found["args"]), found["attributes"])


class SettingsError(FewstepError):
    """Bad settings, wrong usage or missing input data. Raised before any work: nothing on disk has changed."""

    exit_code = 2


@contextmanager
def laid_at(where: str) -> Iterator[None]:
    """A SettingsError from within says first to which setting or file it belongs."""
    try:
        yield
    except SettingsError as error:
        first, *more = str(error).split("\n")
        raise SettingsError(f"{where}: {first}", *more, hint=error.hint) from None


class DataDiffers(FewstepError):
    """Bytes are not those that were recorded."""

    exit_code = 3


class CorruptData(DataDiffers):
    """A file fails its checksum. The message names the file; the data was not used."""


class NotAvailable(FewstepError):
    """Something that is known about is not here (a cache entry, a registered version, a remote)."""

    exit_code = 4


class Busy(FewstepError):
    """Another run works in this checkout. The message names it."""

    exit_code = 5


class NonFinite(FewstepError):
    """A loss, gradient or sample is NaN or infinite: `step` counts from 0, `term` and `role` name what did it."""

    def __init__(self, message: str, *, step: int | None = None, term: str | None = None, role: str | None = None,
                 hint: str | None = None):
        super().__init__(message, hint=hint)
        self.step, self.term, self.role = step, term, role


class StageFailed(FewstepError):
    """A stage's own check of its result failed (a quality floor, too many corrupt images), or a worker died."""


class DiskFull(FewstepError):
    """No space left (or a quota or file-size limit reached). Everything that was finished is kept."""
