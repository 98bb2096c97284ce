"""What a process on another node does of a unit that nodes share: it starts the node's processes of the group.

It is a `python -m tasks.unit` that was told a `Share`. It says first whether it sees the run's disk. Where it does not,
it is told where the inputs lie and what has been done of the work, and brings that here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.util.config import Strict
from tasks.engine.group.ranks import Message, Ranks
from tasks.engine.unit_exchange import Offer, UnitCache, brought, download
from tasks.storage.sharing.shared_work import SharedFile

_PAUSE = 0.05


class Share(Strict):
    """The processes of one node: `count` of them, the first of which is number `first` of the group; `threads` that
    each may use on a CPU, as the first process of all may."""

    message: Message
    first: int
    count: int
    threads: int


class Begun(Strict):
    """For a node that does not see the run's disk: where the inputs lie, and the checkpoints of the work."""

    offer: Offer
    scratch: tuple[SharedFile, ...]


def take_part(share: Share, hear: Callable[[], str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Start the node's processes, and wait until they are done. Raises the error of one that fails."""
    with contextlib.ExitStack() as stack:
        message = share.message
        if not message.sees_the_work:
            tell({"unseen": socket.gethostname()})
            begun = Begun.model_validate_json(hear())
            message = brought(message, begun.offer, stack.enter_context(UnitCache().working_folder()))
            download(begun.offer.store, begun.scratch, Path(message.work) / "scratch")
        os.environ["OMP_NUM_THREADS"] = str(share.threads)      # decides bits: not what this node has
        meeting = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewstep-meeting-")))
        ranks = Ranks(message, range(share.first, share.first + share.count), meeting, share.first)
        stack.callback(ranks.end)
        while not ranks.ready:
            time.sleep(_PAUSE)
        tell({"ready": ranks.fingerprint})
        while not ranks.done:
            time.sleep(_PAUSE)
