"""What another process of ours needs to know to work on a stage: its context as JSON."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from fewstep.util.config import Strict
from fewstep.util.files import write_atomically
from tasks.engine import manifest as manifests
from tasks.stages.base import Context, Stage
from tasks.storage.workspace import Workspace

_MARK = "seen-here"


class ContextMessage(Strict):
    """A stage and what it works with.

    Attributes:
        stage: name.
        settings: of the stage, resolved.
        seed: of the experiment.
        root: checkout that the inputs belong to.
        inputs: output folders of earlier stages, by name.
        outside: paths of what comes from outside the pipeline, by name.
        work: folder of the work.
    """

    stage: str
    settings: dict[str, Any]
    seed: int
    root: str
    inputs: dict[str, str]
    outside: dict[str, str]
    work: str

    @classmethod
    def facts(cls, context: Context) -> dict[str, Any]:
        """What these attributes are for a stage's context."""
        return {
            "stage": context.stage, "settings": context.settings.model_dump(mode="json"), "seed": context.seed,
            "root": str(context.workspace.root), "work": str(context.work),
            "inputs": {name: str(path) for name, path in context.inputs.items()},
            "outside": {name: str(path) for name, path in context.outside.items()},
        }  # fmt: skip

    def context(self, stage: Stage, key: str, source: str, kind: type[Context] = Context, **more: Any) -> Context:
        """The context that it tells of, as an instance of `kind`; `more`: of its further attributes. `source` names the
        settings in messages."""
        inputs = {name: Path(folder) for name, folder in self.inputs.items()}
        return kind(
            stage=stage.name, key=key, settings=stage.parse(self.settings, source), seed=self.seed, inputs=inputs,
            manifests={name: manifests.load(folder) for name, folder in inputs.items()},
            outside={name: Path(path) for name, path in self.outside.items()}, work=Path(self.work),
            workspace=Workspace(Path(self.root)), **more)  # fmt: skip


class WorkMessage(ContextMessage):
    """The same for a process that may be on another host.

    Attributes:
        mark: what a file of the folder of work holds: who reads it there sees the run's disk.
    """

    mark: str

    @property
    def sees_the_work(self) -> bool:
        """Whether this process sees the folder of work, and the inputs with it."""
        try:
            return Path(self.work, _MARK).read_text(encoding="utf-8") == self.mark
        except (OSError, UnicodeDecodeError):
            return False


def marked(context: Context) -> str:
    """The mark of this work, which lies in its folder from now on."""
    mark = secrets.token_hex(16)
    write_atomically(context.work / _MARK, mark)
    return mark
