"""Another host tidies up without a pause while a run registers its student: what it does then is nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.mlflow_server import mlflow_server
from tests.pipeline.test_kill import mlflow_client
from tests.project import TINY, Project
from tests.s3_server import BUCKET

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]
TIDY = """
import json
from tasks.registry import register_model
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
print(json.dumps(register_model.tidy(Registry(Workspace.find()))))
"""


@pytest.fixture
def hosts(tmp_path, s3_server, postgres):
    """Two clones, with a bucket and an MLflow on PostgreSQL in common."""
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow", postgres.new("other_host"), f"s3://{BUCKET}/mlflow-other-host",
                       **s3_server.environment) as url:  # fmt: skip
        one = Project(tmp_path / "one", TINY)
        shutil.copytree(one.folder, tmp_path / "two", symlinks=True)
        two = Project.__new__(Project)
        two.folder = tmp_path / "two"
        for host in (one, two):
            host.servers = {**s3_server.environment, "MLFLOW_TRACKING_URI": url, "FEWSTEP_HOST": host.folder.name}
            (host.folder / ".dvc" / "config.local").write_text(
                f"['remote \"store\"']\n    url = s3://{BUCKET}/other-host\n[core]\n    remote = store\n")
        yield one, two


def test_a_run_is_not_touched_by_another_hosts_reconcile_and_tidy(hosts, seen):
    one, two = hosts
    said = one.folder.parent / "said.txt"
    run = one.start("run", "--json", log=said)
    times = 0
    while run.poll() is None:
        report = json.loads(two.check("reconcile", "--json"))
        assert report["changed"] == 0, report
        tidied = subprocess.run([sys.executable, "-c", TIDY], cwd=two.folder, env=two.environment(),
                                capture_output=True, text=True, check=True)  # fmt: skip
        assert json.loads(tidied.stdout) == []
        times += 1
    assert run.returncode == 0, said.read_text()
    client = mlflow_client(one)
    (version,) = client.search_model_versions("name='fewstep-digits'")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert client.get_registered_model("fewstep-digits").aliases["champion"] == version.version
    assert times > 1
    seen(fault="another host's `reconcile` and the tidying of registrations, without a pause, during a whole run",
         code=0)
