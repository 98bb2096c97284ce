"""A waiting decision on a Prefect server: a suspended run that is answered on its page, or ended from the terminal."""

import json
import signal
import subprocess
import sys

import pytest
import torch

from tasks.registry import register_model
from tasks.registry.aliases import Decision, history, move
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tests.flows.scheduling.test_scheduler import free_port, wait_for
from tests.own_server import client_of
from tests.registry_world import Place, save_student
from tests.registry_world import registration as what

MODEL = "fewstep-toy"
RUN = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.flow_runs import resume_flow_run
what, run = sys.argv[1:3]
with get_client(sync_client=True) as client:
    if what == "state":
        print(client.read_flow_run(run).state.name)
    elif what == "ask":
        from flows.orchestration.approval_flow import ask
        from tasks.storage.workspace import Workspace
        print(ask(Workspace.find(), *sys.argv[2:]))
    else:
        resume_flow_run(run, run_input=json.loads(sys.argv[3]))
"""


def registered(root, tmp_path):
    """Two versions of other weights in the project's registry, the first champion."""
    return register_two(Place(root), tmp_path)


def register_two(place, tmp_path):
    """The same of any workspace."""
    from safetensors.torch import load_file, save_file

    student = save_student(tmp_path / "student")
    register_model.register(what(place, student))
    path = next(student.rglob("*.safetensors"))
    save_file({name: tensor + 1e-3 if tensor.is_floating_point() and torch.numel(tensor) > 1 else tensor
               for name, tensor in load_file(path).items()}, path)  # fmt: skip
    register_model.register(what(place, student, evaluation="d" * 64))
    registry = Registry(place)
    move(registry, registry.get(MODEL, 1), None)
    return registry


@pytest.mark.slow
def test_a_suspended_run_is_answered_on_its_page_or_ended_from_the_terminal(project, tmp_path):
    registry = registered(project.root, tmp_path)
    port = free_port()
    serve = project.start("serve", "--port", str(port))
    environment = project.environment()

    def prefect(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=project.root, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr}"

    def ask(number: int, former: int) -> tuple[str, str]:
        decision = Decision(MODEL, number, "champion", "gated", True, (), former)
        identity = pending_approvals.store(registry, decision, 1.0, who="bob").pending
        run = wait_for(lambda: (found := prefect("ask", identity, f"{MODEL}/{number}")) != "None"
                       and not found.startswith("failed") and found)  # fmt: skip
        wait_for(lambda: prefect("state", run) == "Suspended")
        return identity, run

    try:
        environment |= client_of(wait_for(lambda: (project.root / ".fewstep/serve.json").exists()
                                          and (project.root / ".fewstep/serve.json").read_text()))  # fmt: skip
        _, run = ask(2, 1)
        prefect("resume", run, json.dumps({"approve": True, "who": "eve", "why": "looked at the grid"}))
        wait_for(lambda: prefect("state", run) == "Completed")
        assert registry.aliases(MODEL)["champion"] == 2
        entry = history(registry, MODEL)[-1]
        assert (entry.event, entry.who, entry.why) == ("promoted", "eve", "looked at the grid")
        identity, run = ask(1, 2)
        answer = project.json("reject", identity[:8], "--why", "sevens")
        assert answer["event"] == "rejected" and registry.aliases(MODEL)["champion"] == 2
        assert prefect("state", run) == "Cancelled"
    finally:
        serve.send_signal(signal.SIGINT)
        serve.wait()
