"""What the system refuses is one line with an exit code; closed and full outputs are no tracebacks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.system_errors import in_words
from tests.project import Project

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = ("schedule", "--cron", "0 2 * * *")


def fewstep(redirect, *arguments, cwd, before=""):
    words = " ".join(f"'{word}'" for word in arguments)
    return subprocess.run(["sh", "-c", f"{before} '{sys.executable}' -m flows.cli {words} {redirect}"], cwd=cwd,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(cwd)})  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project") / "p").folder


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere_and_the_work_is_done(project, redirect):
    before = (project / "params.yaml").read_bytes()
    done = fewstep(redirect, *SCHEDULE, "--name", "closed", cwd=project)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (project / ".fewstep" / "schedules" / "closed.json").is_file()
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("arguments", [("recipes",), ("recipes", "--json"), ("--help",)])
def test_a_full_output_is_one_line_and_a_code(project, arguments):
    done = fewstep(">/dev/full", *arguments, cwd=project)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2, done.stderr
    assert done.stderr.startswith("error: the output cannot be written: No space left")


def test_a_reader_that_has_gone_is_no_error(project):
    done = fewstep("| true; exit 0", "recipes", cwd=project)
    assert not done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights over files")
@pytest.mark.parametrize("arguments", [SCHEDULE, ("stage", "run", "shard"), ("run",), (*SCHEDULE, "--json")])
def test_a_checkout_that_may_only_be_read_is_named(tmp_path_factory, arguments):
    folder = Project(tmp_path_factory.mktemp("read") / "p").folder
    for place in (folder, folder / ".fewstep"):
        place.mkdir(exist_ok=True)
        os.chmod(place, 0o555)
    drop = "setpriv --bounding-set=-dac_override,-dac_read_search,-fowner --inh-caps=-all"
    try:
        done = fewstep("", *arguments, cwd=folder, before=drop)
    finally:
        for place in (folder, folder / ".fewstep"):
            os.chmod(place, 0o755)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: " in done.stderr and str(folder) in done.stderr and "Permission denied" in done.stderr
    if "--json" in arguments:
        assert str(folder) in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENOTDIR, errno.ELOOP, errno.EIO,
                                    errno.ENAMETOOLONG, errno.EISDIR, errno.ENOSPC, errno.EDQUOT])  # fmt: skip
def test_every_error_has_its_file_and_a_hint_in_one_line(number):
    for name in ("/x/y", b"/x/y", Path("/x/y")):
        said = in_words(OSError(number, os.strerror(number), name))
        assert "/x/y" in str(said) and "\n" not in str(said) and said.hint and said.exit_code == 1
