"""infra/terraform/aws by Terraform itself, without AWS: formatted, valid, and a plan that its tests agree with."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.closure import ROOT
from tests.infra.rendering import write

FOLDER = ROOT / "infra/terraform/aws"
MIRROR = Path(os.environ.get("FEWSTEP_TF_PLUGINS", "/opt/tf-plugins"))     # of providers, as they are downloaded


@pytest.fixture(scope="module")
def terraform(tmp_path_factory):
    """Runs a command of Terraform in a rendered folder, with providers from the mirror."""
    if shutil.which("terraform") is None or not MIRROR.is_dir():
        pytest.skip("no terraform with a mirror of the provider aws here (FEWSTEP_TF_PLUGINS)")
    folder = write("terraform", tmp_path_factory.mktemp("terraform"), namespace="team", bucket="team-store")
    shutil.copy(FOLDER / "stack.tftest.hcl", folder)
    (folder / "cli.tfrc").write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{MIRROR}" }}\n}}\n')
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(folder / "cli.tfrc"), "CHECKPOINT_DISABLE": "1",
                   "TF_IN_AUTOMATION": "1"}  # fmt: skip

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(["terraform", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    run("init", "-backend=false", "-no-color")
    return run


def test_it_is_formatted():
    if shutil.which("terraform") is None:
        pytest.skip("no terraform here")
    done = subprocess.run(["terraform", "fmt", "-check", FOLDER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow       # the provider takes half a minute to load
def test_it_is_valid(terraform):
    assert json.loads(terraform("validate", "-json"))["diagnostics"] == []


@pytest.mark.slow
def test_a_plan_is_what_its_tests_say(terraform):
    said = terraform("test", "-no-color")
    assert "5 passed, 0 failed" in said


def test_what_is_rendered_are_variables_that_there_are(tmp_path):
    given = json.loads((write("terraform", tmp_path) / "terraform.tfvars.json").read_text())
    declared = re.findall(r'^variable "(\w+)"', (FOLDER / "variables.tf").read_text(), re.MULTILINE)
    text = "".join(path.read_text() for path in FOLDER.glob("*.tf"))
    assert set(given) < set(declared) and all(f"var.{name}" in text for name in declared)
    assert not re.search(r"password\s*=\s*\"", text) and not re.search(r"AKIA|secret_key", text)
