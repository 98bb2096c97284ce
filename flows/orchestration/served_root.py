"""Which workspace the flows of this process work in.

No parameter of a flow says so: who can reach a Prefect server can start its deployments with any parameters, and the
path of one host means nothing on another.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks.storage.workspace import Workspace

SERVED_ROOT = "FEWSTEP_SERVED_ROOT"     # set for flow runs by `fewstep serve`, and where a worker clones code apart


def served_workspace() -> Workspace:
    """The workspace that `fewstep serve` serves, or that lies beside the code that a worker cloned; else the one that
    this process was started in."""
    given = os.environ.get(SERVED_ROOT)
    return Workspace.find(Path(given).resolve()) if given else Workspace.find()
