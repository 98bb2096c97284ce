"""A workspace that `fewstep init` made, apart from the code that it uses: a project of these tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fake_project import FakeProject
from tests.project import Project


class ApartWorkspace(FakeProject):
    """The workspace in `folder` of the code in `code.folder`, over the DVC cache `cache`."""

    def __init__(self, folder: Path, code: Project, cache: Path, *options: str):
        self.folder, self.code = folder, code
        done = subprocess.run(self.command("init", str(folder), "--cache", str(cache), *options), cwd=folder.parent,
                              env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{"PYTHONPATH": str(self.code.folder), **more})
