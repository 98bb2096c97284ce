"""Files of extractors are looked at before any work that is to read them."""

import hashlib

import pytest

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from flows.runs.extractors_ready import require_extractors
from tasks.config.schema import Settings
from tasks.engine.plan import PlanItem
from tasks.storage.workspace import Workspace
from tests.project import Project


def test_files_of_extractors_are_looked_at_before_the_stages_that_read_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_EXTRACTORS", str(tmp_path))
    path = tmp_path / "clip" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text("{}")
    right = hashlib.sha256(b"{}").hexdigest()

    def look(digest: str, state: str, stage: str = "baselines") -> None:
        settings = parse(Settings, {"evaluate": {"extractors": {"clip_tokenizer": digest}}}, "params.yaml")
        require_extractors(Workspace(tmp_path), settings, [PlanItem(stage, None, state, "")])

    look(right, "missing")
    for digest, state, stage in (("0" * 64, "current", "evaluate"), ("0" * 64, "stale", "distill")):
        look(digest, state, stage)      # which read none, or not again
    with pytest.raises(SettingsError, match="evaluate.extractors.clip_tokenizer: the hash of"):
        look("0" * 64, "stale")
    path.unlink()
    with pytest.raises(SettingsError, match="tokenizer.json is missing"):
        look(right, "missing", "evaluate")


def test_a_run_without_an_extractor_s_files_ends_before_any_work(tmp_path):
    project = Project(tmp_path / "project")
    for words in ((), ("--dry-run",)):
        done = project.run("run", *words, "--set", f"evaluate.extractors.clip={'a' * 64}")
        assert done.returncode == 2 and "is missing" in done.stderr, done.stderr
    assert not (project.folder / "data" / "shards").exists()
    assert "clip" not in (project.folder / "params.yaml").read_text()
