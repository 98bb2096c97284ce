"""Private repositories: the token that runs are given is what git logs in by, in Compose and in Kubernetes."""

import os
import subprocess

import pytest
import yaml

from tests.infra.rendering import write


def of_compose(folder) -> dict[str, str]:
    services = yaml.safe_load((write("compose", folder) / "compose.yaml").read_text())["services"]
    return {name: value.replace("$$", "$") for name, value in services["worker"]["environment"].items()}


def of_kubernetes(folder) -> dict[str, str]:
    return yaml.safe_load((write("kubernetes", folder) / "base/config.yaml").read_text())["data"]


@pytest.mark.parametrize("given", [of_compose, of_kubernetes])
def test_git_logs_in_by_the_token(given, tmp_path):
    environment = {name: value for name, value in given(tmp_path).items() if name.startswith("GIT_CONFIG")}
    said = subprocess.run(["git", "credential", "fill"], input="protocol=https\nhost=git.example.org\n\n", text=True,
                          env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment, "GIT_TOKEN": "canary"},
                          capture_output=True, check=True).stdout  # fmt: skip
    assert "password=canary" in said.splitlines() and "username=git" in said.splitlines()
