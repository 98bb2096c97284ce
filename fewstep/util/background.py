"""Work that goes on beside its caller's, in a thread, one piece at a time. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Does one piece of work at a time; what one of them raises is raised in the caller, at its next question.

    The thread does not outlive the process: whoever must not lose the work waits for it.
    """

    def __init__(self, name: str):
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work`, once the one before has ended; raises that one's error."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name=self._name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a piece of work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raises the error of the work that has ended, once; waits for none."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Waits for the work under way, and raises its error, once."""
        self.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Waits for the work under way; an error stays for the next question."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:      # the caller's to raise
            self._error = error
