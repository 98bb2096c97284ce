"""A canary in every secret: after runs that fail with it in their errors, it is in nothing that was written."""

import base64
import stat
import subprocess
import sys
from urllib.parse import quote

import pytest

from tests.postgres import PASSWORD

MARK = "6f1e0b"     # in every secret of tests.postgres and tests.s3_server, too
LOGIN = f"admin:canary-{MARK}-prefect"


@pytest.mark.slow
def test_no_secret_is_in_terminal_logs_databases_records_or_store(project, postgres, s3_server):
    dvc = [sys.executable, "-m", "dvc", "remote", "add", "-q"]
    subprocess.run([*dvc, "-f", "-d", "store", "s3://fewstep/secrets"], cwd=project.root, check=True)
    local = project.root / ".dvc" / "config.local"
    local.write_text(f"['remote \"other\"']\n    url = s3://other/x\n    secret_access_key = canary-{MARK}-local\n")
    local.chmod(0o600)
    project.git("commit", "-qam", "a remote")
    database = postgres.new("secrets")
    environment = {
        **s3_server.environment, "MLFLOW_TRACKING_URI": database, "PREFECT_API_AUTH_STRING": LOGIN,
        "MLFLOW_TRACKING_USERNAME": "somebody", "MLFLOW_TRACKING_PASSWORD": f"canary-{MARK}-mlflow",
        "FEWSTEP_WEBHOOK": f"http://127.0.0.1:9/services/T0/canary-{MARK}", "SOME_API_KEY": f'canary-"{MARK}"-other',
    }  # fmt: skip
    secrets = [value for value in environment.values() if MARK in value]
    assert len(secrets) >= 7
    said = " ".join([*secrets, *map(quote, secrets), PASSWORD, f"postgresql://u:{PASSWORD}@h/db",
                     f"/services/T0/canary-{MARK}", base64.b64encode(LOGIN.encode()).decode()])  # fmt: skip
    project.control(teacher={"raise": said}, distill={"bug": said})

    def fewstep(*arguments: str) -> subprocess.CompletedProcess:
        process = project.start(*arguments, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    here, aside = fewstep("run"), fewstep("run", "--isolated", "--set", "seed=1", "--json")
    assert (here.returncode, aside.returncode) == (1, 1), here.stderr + aside.stderr
    more = [fewstep(command) for command in ("status", "doctor", "reconcile")]
    log = next((project.root / ".fewstep" / "runs").glob("*/prefect.log")).read_text()
    assert "trying again" in here.stdout and "ValueError" in here.stderr and "Traceback" in log
    marks = (MARK.encode(), base64.b64encode(LOGIN.encode()), base64.b64encode(LOGIN.partition(":")[2].encode()))
    for done in (here, aside, *more):
        for text in (done.stdout, done.stderr):
            assert not any(mark in text.encode() for mark in marks), text
    given = {project.root / "control.json", local}
    copies = [path for path in (project.root / ".fewstep" / "worktrees").rglob("config.local")]
    assert copies and {stat.S_IMODE(path.stat().st_mode) for path in copies} == {0o600}
    for path in project.root.rglob("*"):
        if path.is_file() and path not in given and path not in copies:
            assert not any(mark in path.read_bytes() for mark in marks), path
    dump = postgres.dump("secrets")
    assert b"ValueError" in dump and not any(mark in dump for mark in marks)
    stored = s3_server.names("secrets/")
    assert stored and not any(mark in s3_server.read(name) for name in stored for mark in marks)
