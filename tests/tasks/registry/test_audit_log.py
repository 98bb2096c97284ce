"""The audit log: entries of older versions are read, torn lines dropped, damaged ones named; what closes what."""

import json

import pytest

from fewstep.util.errors import DataDiffers
from tasks.registry import audit_log
from tasks.registry.audit_log import Entry
from tasks.registry.record import NAME, FileRecord

OLDER = [
    {"event": "intent", "id": "a1", "alias": "champion", "from": None, "to": 1, "when": "2026-01-01T00:00:00+00:00",
     "who": "ann", "why": "first", "figures": {}, "as": "promoted"},
    {"event": "promoted", "id": "a1", "alias": "champion", "from": None, "to": 1, "when": "2026-01-01T00:00:01+00:00",
     "who": "ann", "why": "first", "figures": {}, "as": "promoted"},
    {"event": "refused", "id": "b2", "alias": "champion", "from": 1, "to": 2, "when": "2026-01-02T00:00:00+00:00",
     "who": "bob", "why": "worse", "figures": {"contest": {"n": 64}}, "kind": "inferior"},
    {"event": "pending", "id": "c3", "alias": "champion", "from": 1, "to": 3, "when": "2026-01-03T00:00:00+00:00",
     "who": "bob", "why": "", "figures": {"kid": float("nan")}, "expires": "2026-01-06T00:00:00+00:00",
     "weights": None},
    {"event": "intent", "id": "d4", "alias": "champion", "from": 1, "to": 3, "when": "2026-01-04T00:00:00+00:00",
     "who": "eve", "why": "", "figures": {}, "as": "promoted", "closes": "c3"},
    {"event": "abandoned", "id": "d4", "alias": "champion", "from": 1, "to": 3, "when": "2026-01-04T00:00:01+00:00",
     "who": "eve", "why": "", "figures": {}, "as": "promoted", "closes": "c3", "found": 2},
]  # fmt: skip
"""Lines as versions before the typed entry wrote them."""


def lines(entries) -> str:
    return "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries)


def test_lines_that_older_versions_wrote_are_read(tmp_path):
    assert FileRecord(tmp_path).read() == []
    (tmp_path / NAME).write_text(lines(OLDER))
    entries = FileRecord(tmp_path).read()
    assert [(entry.event, entry.former, entry.to) for entry in entries] == [
        (line["event"], line["from"], line["to"]) for line in OLDER]  # fmt: skip
    assert entries[0].becomes == "promoted" and entries[2].kind == "inferior" and entries[5].found == 2
    assert audit_log.closing(entries, "c3") is None, "the intent that closes it was abandoned"
    assert audit_log.open_entries(entries, "pending") == [entries[3]]
    assert audit_log.open_entries(entries, "intent") == []


def test_what_is_written_reads_the_same_after_a_torn_line(tmp_path):
    (tmp_path / NAME).write_text(lines(OLDER) + '{"event": "refu')
    entry = audit_log.new("rejected", alias="champion", former=1, to=3, who=None, why="https://me:word@host",
                          closes="c3")  # fmt: skip
    FileRecord(tmp_path).append(entry)
    entries = FileRecord(tmp_path).read()
    assert entries[-1] == entry and len(entries) == len(OLDER) + 1 and "word" not in entry.why
    assert audit_log.closing(entries, "c3") == entry and audit_log.open_entries(entries, "pending") == []
    assert entry.to_dict()["from"] == 1 and "kind" not in entry.to_dict()


@pytest.mark.parametrize(("changes", "said"), [
    ({"to": "3"}, "to: expected an integer, got '3'"),
    ({"event": "promotd"}, "event: expected"),
    ({"whom": "eve"}, "whom: unknown key; did you mean 'who'"),
    ({"format": 2}, "format: 2, this version of fewstep reads format 1"),
])
def test_a_line_edited_by_hand_is_refused_with_its_file_line_and_field(tmp_path, changes, said):
    (tmp_path / NAME).write_text(lines([*OLDER[:2], {**OLDER[2], **changes}]))
    with pytest.raises(DataDiffers) as refused:
        FileRecord(tmp_path).read()
    assert str(refused.value).startswith(f"{tmp_path / NAME}, line 3: {said}")
    (tmp_path / NAME).write_text("{\n")
    with pytest.raises(DataDiffers, match="line 1: not readable as JSON"):
        FileRecord(tmp_path).read()


def test_an_intent_ends_under_its_id():
    intent = Entry(**{**OLDER[0], "why": "because"})
    end = intent.ended_as("abandoned", found=None)
    assert (end.id, end.event, end.why) == ("a1", "abandoned", "because") and end.when > intent.when
