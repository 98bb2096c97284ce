"""What happens to a registered model starts an automation on a Prefect server, made with Prefect's own client."""

import json
import signal
import subprocess
import sys

import pytest

from flows.orchestration import promotion_events
from tasks.registry.aliases import move
from tasks.registry.registration_result import RegistrationResult
from tests.flows.orchestration.test_approval_flow import MODEL, registered
from tests.flows.scheduling.test_scheduler import free_port, wait_for
from tests.own_server import client_of
from tests.registry_world import with_three_versions

DEPLOYED = """
from datetime import timedelta
from prefect import flow
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture

with get_client(sync_client=True) as client:
    flow_id = client.create_flow_from_name("deploy-model")
    deployment = client.create_deployment(flow_id, "to-the-app", enforce_parameter_schema=False)
Automation(
    name="the app follows the champion",
    trigger=EventTrigger(expect={"fewstep.promoted", "fewstep.rolled-back"}, posture=Posture.Reactive, threshold=1,
                         match={"prefect.resource.id": "fewstep.model.fewstep-toy"}, within=timedelta(0)),
    actions=[RunDeployment(deployment_id=deployment, parameters={
        "what": "{{ event.event }}", "model": "{{ event.resource.name }}", "why": "{{ event.payload.why }}",
        "version": "{{ event.resource['fewstep.version'] }}"})],
).create()
"""
STARTED = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(json.dumps([run.parameters for run in client.read_flow_runs() if run.parameters.get("what")]))
"""


def registered_result(number: int) -> RegistrationResult:
    return RegistrationResult(model=MODEL, version=number, weights="w", evaluation="e", made=True, promoted=False,
                              policy="gated")


def test_a_run_tells_of_what_was_decided_about_its_own_version(tmp_path, monkeypatch):
    registry, said = with_three_versions(tmp_path), []
    monkeypatch.setattr(promotion_events, "emit",
                        lambda model, entry: said.append((model, entry.event, entry.to)))
    for number, decided in ((1, lambda: move(registry, registry.get(MODEL, 1), None)), (2, lambda: None)):
        decided()
        promotion_events.emit_of_run(registry.workspace, registered_result(number))
    assert said == [(MODEL, "promoted", 1)]  # of version 2, which stays a candidate, there is nothing to tell


@pytest.mark.slow
def test_an_automation_on_a_prefect_server_follows_the_champion(project, tmp_path):
    registry = registered(project.root, tmp_path)
    move(registry, registry.get(MODEL, 2), 1)
    port = free_port()
    serve = project.start("serve", "--port", str(port))
    environment = project.environment()

    def prefect(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=project.root, env=environment, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        environment |= client_of(wait_for(lambda: (project.root / ".fewstep/serve.json").exists()
                                          and (project.root / ".fewstep/serve.json").read_text()))  # fmt: skip
        prefect(DEPLOYED)
        project.fewstep("rollback", "toy", "--why", "blurred sevens")
        assert wait_for(lambda: json.loads(prefect(STARTED))) == [
            {"what": "fewstep.rolled-back", "model": MODEL, "why": "blurred sevens", "version": "1"}]  # fmt: skip
    finally:
        serve.send_signal(signal.SIGINT)
        serve.wait()
