"""Which checkout the flows of this process work in.

No parameter of a flow says so: who can reach a Prefect server can start its deployments with any parameters, and the
path of one host means nothing on another.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks.storage.workspace import Workspace

SERVED_ROOT = "FEWSTEP_SERVED_ROOT"     # set by `fewstep serve` for the flow runs that it starts


def served_workspace() -> Workspace:
    """The checkout that `fewstep serve` serves, else the one that this process was started in."""
    given = os.environ.get(SERVED_ROOT)
    return Workspace(Path(given)) if given else Workspace.find()
