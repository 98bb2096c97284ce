"""What a registered version was made of, as the version's tags in MLflow hold it."""

from __future__ import annotations

import json
from typing import Any, Literal

from fewstep.util.config import Strict
from fewstep.util.errors import DataDiffers
from tasks.storage.code_state import CodeOrigin
from tasks.storage.documents import validate_document

PREFIX = "fewstep."


class StageOutput(Strict):
    """A stage's output that the version came from: key, digest and code of its manifest.

    Attributes:
        modules: files and folders of code whose bytes `code` is of, in tags made before code was told by its syntax
            tree; since then the files stand in the manifest.
    """

    key: str
    digest: str
    code: str
    modules: tuple[str, ...] | None = None


class Origin(Strict):
    """The version in another store that this one is a copy of."""

    store: str
    version: str


class VersionTags(Strict):
    """Tags of a version, each under `fewstep.<field>`: text as it is, everything else as JSON.

    Attributes:
        weights: tree digest of the exported student.
        evaluation, student, teacher, trajectories, shards: digests of these stages' manifests.
        stages: output of every stage that DVC keeps, by stage.
        given: digests of what came from outside the pipeline (images, teacher, recipe).
        commit: git commit of the workspace, which is that of the code too unless this lies apart; empty outside git.
        modified: whether the files differed from the commit.
        code: of code that lies apart from the workspace.
        pipeline: SHA-256 of the exported pipeline.py, or `stock`.
        results: metrics.json of the evaluation.
        protocols: the evaluation's protocols by their digests.
        snapshot: SHA-256 of every file kept with the version, by name.
        origin: None for a version that was registered where it lies.
    """

    format: Literal[1] = 1
    weights: str = ""
    evaluation: str = ""
    student: str = ""
    teacher: str = ""
    trajectories: str = ""
    shards: str = ""
    stages: dict[str, StageOutput] = {}
    given: dict[str, str] = {}
    commit: str = ""
    modified: bool = False
    code: CodeOrigin | None = None
    pipeline: str = ""
    results: dict[str, Any] = {}
    protocols: dict[str, Any] = {}
    snapshot: dict[str, str] = {}
    origin: Origin | None = None

    def to_tags(self) -> dict[str, str]:
        """The tags as MLflow stores them; fields that were not set are left out."""
        values = self.model_dump(exclude_none=True, exclude_unset=True, exclude={"format"})
        tags = {PREFIX + "format": str(self.format)}
        for name, value in values.items():
            tags[PREFIX + name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        return tags


def read_tags(tags: dict[str, str], version: str) -> VersionTags:
    """The tags of `version` (its name, for messages); tags of others are passed over.

    Raises DataDiffers naming the version and the tag for one that is damaged.
    """
    values: dict[str, Any] = {}
    for name, field in VersionTags.model_fields.items():
        text = tags.get(PREFIX + name)
        if text is None:
            continue
        try:
            values[name] = text if field.annotation is str else json.loads(text)
        except ValueError as error:
            raise DataDiffers(f"{version}: tag {PREFIX}{name}: not readable as JSON: {error}") from None
    return validate_document(VersionTags, values, f"{version}: tags")
