"""Which checkout the flows of this process may work in.

Who can reach a Prefect server can start its deployments with any parameters: a flow takes none but its own checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

from fewstep.util.errors import SettingsError
from tasks.storage.workspace import Workspace

SERVED_ROOT = "FEWSTEP_SERVED_ROOT"     # set by `fewstep serve` for the flow runs that it starts


def served_workspace(root: str) -> Workspace:
    """The checkout at `root`, if it is the one that `fewstep serve` serves, or that a work pool's worker works in.

    Raises SettingsError for any other.
    """
    given = os.environ.get(SERVED_ROOT)
    served = Workspace(Path(given)) if given else Workspace.find()
    if Path(root).resolve() != served.root.resolve():
        raise SettingsError(f"flows run here in {served.root} alone, not in {root}",
                            hint="serve that checkout by a `fewstep serve` of its own")
    return served
