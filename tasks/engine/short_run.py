"""A short run of one stage, to compare the bits that two versions of the code make: `python -m tasks.engine.short_run`.

Run with PYTHONPATH at the code to be tried. The request on standard input and the answer on standard output are JSON
(`Request`, `Answer`): they are the only interface between two versions of the code, so they change only with VERSION.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.context_message import ContextMessage
from tasks.engine.runner import prepare, run_units
from tasks.storage.file_io import StatTable
from tasks.storage.locks import die_with_parent

VERSION = 1


class Request(ContextMessage):
    """What to run: settings already shortened (Stage.shortened), in a new folder. `version`: of this protocol, of which
    ContextMessage is a part."""

    version: int


class Answer(Strict):
    """What the run made: SHA-256 of every file by path, the digest of all files, and the stage's summary."""

    version: int
    digest: str
    files: dict[str, str]
    summary: dict[str, Any]


def run(request: Request) -> Answer:
    """Run the stage in one thread and without what exists beside its output. SettingsError for another protocol."""
    if request.version != VERSION:
        raise SettingsError(f"short runs of version {request.version} are asked for, this code makes version {VERSION}")
    stage = graph.stage(request.stage)
    context = request.context(stage, "short", "short run")
    stage.check(context)
    prepare(stage, context)
    summary = run_units(stage, context, measure=False)
    with contextlib.closing(StatTable(context.work / "stat.sqlite")) as table:
        files = manifests.scan(context.out, table)
    return Answer(version=VERSION, digest=manifests.tree_digest(files), summary=summary,
                  files={file.path: file.sha256 for file in files})


if __name__ == "__main__":
    die_with_parent()
    print(run(parse(Request, json.load(sys.stdin), "request")).model_dump_json())
