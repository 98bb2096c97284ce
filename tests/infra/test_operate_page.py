"""docs/operate.md names commands, files and outputs that are there, in an order that works."""

import re
import shlex

import pytest

from flows.stack.render import KINDS, rendered
from tests.closure import ROOT
from tests.infra.rendering import IMAGE, settings
from tests.website.test_shown_commands import check

TEXT = (ROOT / "docs/operate.md").read_text()
SHELL = [line[4:] for line in TEXT.replace("\\\n", " ").splitlines() if line.startswith("    ")]
OURS = ("fewstep", "sbatch", "prefect", "dvc")
COMMANDS = [words for line in SHELL for part in re.split("&&|;|\\|", line)
            if (words := shlex.split(part, comments=True)) and words[0] in OURS and "…" not in words]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=map(" ".join, COMMANDS))
def test_a_command_of_the_page_is_there_as_it_is_shown(words):
    check(words)


def test_files_and_outputs_are_those_that_are_rendered():
    files = {kind: {name for name, _ in rendered(settings(), kind, IMAGE)} for kind in KINDS}
    named = re.findall(r"build/stack/(\w+)/([\w./-]+\.\w+)", TEXT)
    made_by_hand = {"clients.env", "database.env"}
    assert len(named) >= 5 and all(name in files[kind] | made_by_hand for kind, name in named)
    assert {name for name in re.findall(r"overlays/[\w-]+", TEXT)} <= {
        name.rpartition("/")[0] for name in files["kubernetes"]}  # fmt: skip
    assert set(re.findall(r"(?:overlays|jobs)/[\w/-]+\.\w+", TEXT)) <= files["kubernetes"]
    outputs = re.findall(r'^output "(\w+)"', (ROOT / "infra/terraform/aws/outputs.tf").read_text(), re.MULTILINE)
    asked = re.findall(r"terraform output -raw (\w+)", TEXT)
    assert set(asked) == {"kubeconfig_command", "gpu_nodes_command", "database_secret"} <= set(outputs)
    assert {"image", "database_host"} <= set(outputs)


def test_what_workers_clone_is_committed_before_it_is_in_an_image_or_a_schedule():
    steps = ["dvc remote add", "git commit -a", "docker build -f", "docker push IMAGE", "fewstep schedule"]
    places = [TEXT.index(step) for step in steps]
    assert places == sorted(places)
    kubernetes = TEXT[TEXT.index("### Kubernetes") : TEXT.index("### AWS")]
    steps = ["create secret generic fewstep ", "apply -k", "port-forward service/prefect", "port-forward service/s3",
             "export PREFECT_API_URL", "prefect work-pool create", "fewstep schedule"]  # fmt: skip
    places = [kubernetes.index(step) for step in steps]
    assert places == sorted(places)
