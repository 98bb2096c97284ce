"""All checks, in the order in which a person would mend what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fewstep.util.errors import FewstepError
from flows.doctor import checkout, installation, servers
from flows.doctor.finding import Finding
from tasks.storage.workspace import Workspace

CHECKS: dict[str, Callable[[Workspace], Iterator[Finding]]] = {     # by the topic of a check that fails itself
    "python": installation.python, "versions": installation.versions, "settings": checkout.settings,
    "folders": checkout.folders, "disk": checkout.disk, "device": installation.device, "git": checkout.git_state,
    "dvc": checkout.dvc_state, "runs": checkout.runs, "schedules": servers.schedules}


def examine(workspace: Workspace, *, ask_servers: bool = True) -> list[Finding]:
    """All findings. Changes nothing here.

    `ask_servers`: whether Prefect's and MLflow's servers and the store behind DVC's remote are asked too; there, an
    object is written and deleted.
    """
    checks = CHECKS | ({"servers": servers.answering, "storage": servers.storage} if ask_servers else {})
    findings = []
    for topic, check in checks.items():
        try:
            findings += check(workspace)
        except FewstepError as error:
            findings.append(Finding(topic, "error", str(error), error.hint))
    return findings
