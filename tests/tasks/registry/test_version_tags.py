"""The tags of a version: written and read back, as older versions wrote them, and damaged."""

import json

import pytest

from fewstep.util.errors import DataDiffers
from tasks.registry.version_tags import Origin, StageOutput, VersionTags, read_tags

OLDER = {
    "fewstep.weights": "w" * 64, "fewstep.evaluation": "e" * 64, "fewstep.student": "s" * 64,
    "fewstep.teacher": "t" * 64, "fewstep.trajectories": "j" * 64, "fewstep.shards": "h" * 64,
    "fewstep.stages": json.dumps({"shard": {"key": "k", "digest": "h" * 64, "code": "c"},
                                  "distill": {"key": "k2", "digest": "d", "code": "c2", "modules": ["tasks/x.py"]}}),
    "fewstep.given": '{"images": "i"}', "fewstep.commit": "c0ffee", "fewstep.modified": "true",
    "fewstep.pipeline": "stock", "fewstep.results": '{"floors": {"recall": NaN}, "protocol": "p"}',
    "fewstep.protocols": '{"p": {"features": "classifier"}}', "fewstep.snapshot": '{"params.yaml": "a"}',
    "fewstep.decision": '{"event": "refused"}', "somebody.else": "{",
}  # fmt: skip
"""Tags as versions before the typed ones wrote them."""


def test_tags_that_older_versions_wrote_are_read():
    tags = read_tags(OLDER, "fewstep-toy/1")
    assert tags.weights == "w" * 64 and tags.modified is True and tags.given == {"images": "i"}
    assert tags.stages["shard"] == StageOutput(key="k", digest="h" * 64, code="c", modules=None)
    assert tags.stages["distill"].modules == ("tasks/x.py",)
    assert tags.results["protocol"] in tags.protocols and tags.origin is None
    assert read_tags({}, "fewstep-toy/1") == VersionTags()


def test_what_is_written_reads_the_same():
    tags = VersionTags(weights="w", modified=True, stages={"shard": StageOutput(key="k", digest="d", code="c")},
                       results={"student": {"4": {"kid": 0.1}}}, origin=Origin(store="x", version="m/1"))  # fmt: skip
    stored = tags.to_tags()
    assert read_tags(stored, "m/1") == tags and "fewstep.protocols" not in stored
    assert all(isinstance(value, str) for value in stored.values()) and stored["fewstep.modified"] == "true"


@pytest.mark.parametrize(("tag", "text", "said"), [
    ("stages", "{", "m/1: tag fewstep.stages: not readable as JSON"),
    ("stages", '{"shard": {"key": "k", "digest": "d"}}', "m/1: tags: stages.shard.code: missing; expected text"),
    ("modified", '"yes"', "m/1: tags: modified: expected true or false, got 'yes'"),
    ("format", "2", "m/1: tags: format: 2, this version of fewstep reads format 1"),
])
def test_a_damaged_tag_is_named(tag, text, said):
    with pytest.raises(DataDiffers) as refused:
        read_tags({**OLDER, f"fewstep.{tag}": text}, "m/1")
    assert str(refused.value).startswith(said)
