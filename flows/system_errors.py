"""What the operating system refuses, in words; and standard streams that are closed or full."""

from __future__ import annotations

import errno
import os
import sys

from fewstep.util.errors import FewstepError
from fewstep.util.files import disk_full, is_disk_full

_HINTS = {errno.EACCES: "the user who runs fewstep must be allowed to read and write there",
          errno.EPERM: "the user who runs fewstep must be allowed to read and write there",
          errno.EROFS: "the file system is mounted read-only; work in a copy that may be written",
          errno.EMFILE: "raise the limit on open files: ulimit -n"}  # fmt: skip


def open_streams() -> None:
    """A standard stream that was closed before the start leads nowhere from here on.

    Else the next file that is opened would get its number, and what is printed would be written into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            lead_nowhere(number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (as long as the process)


def drop_output() -> None:
    """What is still to be printed on stdout goes nowhere: it cannot be written."""
    lead_nowhere(1)


def lead_nowhere(number: int) -> None:
    """The file descriptor `number`, open or closed, is /dev/null from here on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def output_error(after: OSError | None = None) -> FewstepError | None:
    """Writes out what was printed; the error where that cannot be done. Raises BrokenPipeError as it comes.

    after: an error of the command; where it names no file it may have been this one, and a line break is tried.
    """
    try:
        sys.stdout.flush()
        if after is not None and after.filename is None:
            os.write(1, b"\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        return FewstepError(f"the output cannot be written: {error.strerror}", hint="what was done is kept")
    return None


def in_words(error: OSError) -> FewstepError:
    """The system's error in one line: which file, what the system says, and what to do where that is known."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.filename
    if path is not None and is_disk_full(error):
        return disk_full(path)
    said = error.strerror or str(error) or type(error).__name__
    message = f"{path}: {said}" if path is not None else said
    return FewstepError(message, hint=_HINTS.get(error.errno or 0, "`--debug` shows where it happened"))
