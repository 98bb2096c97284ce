"""`fewstep stack`: what it writes and says; a bucket of a real store."""

import json

import pytest

from tests.s3_server import BUCKET


def test_the_command_says_image_and_next_step(project):
    made = project.json("stack", "render", "slurm")
    commit = project.git("rev-parse", "HEAD").strip()
    assert made["image"] == f"fewstep:{commit[:12]}" and made["warnings"] == [] and made["files"] == ["run.sbatch"]
    assert (project.root / "build/stack/slurm/run.sbatch").is_file() and project.git("status", "--short") == ""
    (project.root / "params.yaml").write_text("stack: {worker: {gpus: 3}}\n")
    done = project.fewstep("stack", "render", "slurm", "--to", str(project.root / "x"))
    assert "#SBATCH --gres=gpu:3" in (project.root / "x/run.sbatch").read_text()
    said = " ".join(done.stdout.split())
    assert f"docker build -f infra/docker/Dockerfile -t fewstep:{commit[:12]} ." in said and "uncommitted" in said
    wrong = project.fewstep("stack", "render", "k8s", code=2)
    assert "unknown kind 'k8s'" in wrong.stderr and "compose, kubernetes, slurm, terraform" in wrong.stderr
    answer = json.loads(project.fewstep("stack", "render", "k8s", "--json", code=2).stdout)
    assert answer["error"]["exit_code"] == 2


def test_a_bucket_is_made_once_and_tried(s3_server, project):
    environment = s3_server.environment
    assert project.json("stack", "bucket", "made-here", **environment) == {"bucket": "made-here", "made": True}
    assert project.json("stack", "bucket", "made-here", **environment) == {"bucket": "made-here", "made": False}
    assert "made-here" in [item["Name"] for item in s3_server.client.list_buckets()["Buckets"]]


@pytest.mark.parametrize(("who", "words"), [("reader", "may not"), ("worker", "may not make a bucket for")])
def test_who_may_not_is_told_so(s3_server, project, who, words):
    done = project.fewstep("stack", "bucket", "not-made" if who == "worker" else BUCKET, code=2,
                           **getattr(s3_server, who))  # fmt: skip
    assert words in " ".join(done.stderr.split())
