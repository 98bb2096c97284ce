"""Settings of a run in a worktree: what lies outside git is named by its whole path."""

import subprocess

from flows.runs.isolated import resolve
from tasks.storage.workspace import Workspace
from tests.fewstep.families.pipelines import KINDS


def test_an_untracked_file_of_prompts_is_named_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("name: mine\n")
    for name in ("kept.txt", "mine.txt"):
        (tmp_path / name).write_text("".join(f"{count} red apples\n" for count in range(40)))   # some for each split
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "kept.txt"], check=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    KINDS["sd"].save(tmp_path / "teacher")  # prompts alone are for a teacher of texts
    given = f"teacher.source={tmp_path / 'teacher'}"
    found = {path: resolve(Workspace(tmp_path), [f"data.prompts={path}", given], None)[0].data.prompts
             for path in ("kept.txt", "mine.txt", "~/mine.txt")}  # fmt: skip
    assert found == {"kept.txt": "kept.txt", "mine.txt": str(tmp_path / "mine.txt"),
                     "~/mine.txt": str(tmp_path / "mine.txt")}  # fmt: skip
