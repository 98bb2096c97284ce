"""Runs a command that has children of its own and ends all of them when its parent dies:
`python -m flows.runs.child_supervisor COMMAND …`, with the parent's pid in FEWSTEP_PARENT."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from tasks.storage.locks import die_with_parent


def main() -> None:
    """Runs the command until it ends, or until SIGTERM, which the parent's death brings too."""
    child = subprocess.Popen(sys.argv[1:], start_new_session=True)

    def end(number, frame):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for number in (signal.SIGINT, signal.SIGHUP):     # the parent's, which ends this
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(os.environ.get("FEWSTEP_PARENT", os.getppid())), signal.SIGTERM)
    sys.exit(child.wait())


if __name__ == "__main__":
    main()
