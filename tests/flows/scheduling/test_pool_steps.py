"""What a worker of a pool clones: the workspace and, where that lies apart, the code, in which the flows are."""

import typing

import cloudpickle

from flows.orchestration.served_root import SERVED_ROOT, served_workspace
from flows.scheduling import deployments
from flows.scheduling.pool_deployments import _environment, _steps
from flows.scheduling.schedules import Schedule
from tasks.storage.workspace import Workspace

CLONE = "prefect.deployments.steps.git_clone"
OWN = Schedule(name="n", cron="0 2 * * *", pool="p", repository="https://host/p.git", commit="c0ffee")


def test_a_checkout_that_is_its_own_workspace_is_cloned_alone():
    assert _steps(OWN) == [{CLONE: {"repository": "https://host/p.git", "commit_sha": "c0ffee"}}]
    assert SERVED_ROOT not in _environment(OWN)


def test_code_that_lies_apart_is_cloned_last_and_finds_the_workspace_beside_it(tmp_path, monkeypatch):
    apart = OWN.model_copy(update={"code_repository": "https://host/code.git", "code_commit": "bead"})
    first, last = (step[CLONE] for step in _steps(apart))
    assert first == {"repository": "https://host/p.git", "commit_sha": "c0ffee", "clone_directory_name": "workspace"}
    assert last == {"repository": "https://host/code.git", "commit_sha": "bead", "clone_directory_name": "code"}
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / "workspace").mkdir(exist_ok=True)
        (tmp_path / "workspace" / name).touch()
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setenv(SERVED_ROOT, _environment(apart)[SERVED_ROOT])
    assert served_workspace() == Workspace((tmp_path / "workspace").resolve())


def test_the_flow_knows_the_types_of_its_parameters_in_a_process_that_it_is_handed_to_by_value():
    cloudpickle.register_pickle_by_value(deployments)       # as Prefect's runner does
    try:
        handed = cloudpickle.loads(cloudpickle.dumps(deployments.scheduled.fn))
    finally:
        cloudpickle.unregister_pickle_by_value(deployments)
    assert typing.get_type_hints(handed) and "Changes" not in handed.__globals__
