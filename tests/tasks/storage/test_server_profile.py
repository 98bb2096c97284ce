"""The profile `server`: MLflow by URL over PostgreSQL with its files in S3, DVC's remote in S3."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from fewstep.util.errors import DataDiffers
from tasks.registry import register_model
from tasks.registry.model_registry import Registry
from tasks.storage.object_store import Store
from tasks.storage.workspace import Workspace
from tests.fake_project import FakeProject
from tests.mlflow_server import mlflow_server
from tests.registry_world import Place, save_student
from tests.registry_world import registration as what

CANARY = "canary-6f1e0b"
SECRETS = {"MLFLOW_TRACKING_PASSWORD": f"{CANARY}-password", "MLFLOW_TRACKING_USERNAME": "somebody"}


class Remote(Place):
    mlflow_uri = ""


@pytest.fixture(scope="module")
def environment(s3_server):
    patch = pytest.MonkeyPatch()
    for name, value in {**SECRETS, **s3_server.environment}.items():
        patch.setenv(name, value)
    yield dict(os.environ)
    patch.undo()


@pytest.fixture(scope="module")
def mlflow_url(environment, postgres, tmp_path_factory):
    folder, database = tmp_path_factory.mktemp("mlflow"), postgres.new("server_profile")
    with mlflow_server(folder, database, "s3://fewstep/mlflow", **environment) as url:
        yield url


def names() -> list[str]:
    """Of all objects in the bucket."""
    pages = Store("s3://fewstep").client.get_paginator("list_objects_v2").paginate(Bucket="fewstep")
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def test_a_student_goes_to_the_server_and_comes_back_verified(mlflow_url, tmp_path):
    place = Remote(tmp_path / "here")
    place.mlflow_uri = mlflow_url
    (place.shared).mkdir(parents=True)
    (place.shared / "mlflow.db").touch()  # the world's helper would make one
    version, made = register_model.register(what(place, save_student(tmp_path / "student")))
    assert made
    stored = [name for name in names() if name.startswith("mlflow")]
    assert any(name.endswith("params.yaml") for name in stored) and any(".safetensors" in name for name in stored)
    other = Remote(tmp_path / "elsewhere")  # another machine: nothing here but the address
    other.mlflow_uri = mlflow_url
    registry = Registry(other)
    found = registry.resolve("toy@candidate")
    folder = registry.pipeline(found)
    assert (folder / "model_index.json").is_file()
    assert (registry.snapshot(found, tmp_path / "files") / "params.yaml").read_text() == "name: toy\n"
    assert register_model.tidy(registry) == []
    weights = next(folder.rglob("*.safetensors"))
    registered = weights.read_bytes()
    weights.write_bytes(registered[:-1] + b"\0")  # damage on this disk costs nothing but the way to the store
    assert registry.pipeline(found) == folder and weights.read_bytes() == registered
    # what the store hands out is verified as well
    shutil.rmtree(folder)
    store = Store("s3://fewstep")
    name = next(name for name in stored if ".safetensors" in name)
    store.client.put_object(Bucket="fewstep", Key=name, Body=store.read(name)[:-1] + b"\0")
    with pytest.raises(DataDiffers, match="differ from what was registered"):
        registry.pipeline(found)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    for name in names():
        assert CANARY.encode() not in store.read(name), name


PROMOTE = """
import sys
from tasks.registry.gate import promotion_gate as gate
from tasks.registry.aliases import Decision
from tasks.registry.model_registry import Registry
from tests.tasks.storage.test_server_profile import Remote
from pathlib import Path

place, number = Remote(Path(sys.argv[1])), int(sys.argv[3])
place.mlflow_uri = sys.argv[2]
registry, decided = Registry(place), []

def assess(registry, version, *_, **__):
    decided.append(registry.aliases(version.model).get("champion"))
    return Decision(version.model, version.number, "champion", "gated", decided[-1] != number, (), decided[-1], {})

gate.assess = assess
for _ in range(4):
    print("ready", flush=True)
    sys.stdin.readline()
    gate.promote(registry, registry.get("fewstep-race", number), None)
    print(" ".join(map(str, decided)), flush=True)
    decided.clear()
"""


def test_of_two_hosts_on_one_server_one_wins_and_the_other_decides_again(mlflow_url, environment, tmp_path):
    """Two processes in two checkouts, whose locks know nothing of each other, promote at once, four times."""
    from tasks.registry.alias_claims import Moves
    from tasks.registry.aliases import history

    first = Remote(tmp_path / "host-0")
    first.mlflow_uri = mlflow_url
    first.shared.mkdir(parents=True)
    registry = Registry(first)
    run = registry.tracking.client.create_run(registry.tracking.experiment("race"))
    registry.tracking.client.create_registered_model("fewstep-race")
    for _ in range(2):
        registry.tracking.client.create_model_version("fewstep-race", run.info.artifact_uri, run.info.run_id)
    places = [tmp_path / f"host-{number}" for number in (0, 1)]
    settings = {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    hosts = [subprocess.Popen([sys.executable, "-c", PROMOTE, str(place), mlflow_url, str(number)], env=settings,
                              text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
             for number, place in enumerate(places, 1)]  # fmt: skip
    won = 0
    try:
        for _ in range(4):
            assert [host.stdout.readline() for host in hosts] == ["ready\n"] * 2
            for host in hosts:
                host.stdin.write("\n")
                host.stdin.flush()
            tries = [host.stdout.readline().split() for host in hosts]  # the champions that each decided against
            last = registry.aliases("fewstep-race")
            assert last["champion"] in (1, 2) and (not won or last["previous"] == 3 - last["champion"])
            won += sum(1 for number, seen in enumerate(tries, 1) if seen[-1] != str(number))
            assert {seen[0] for seen in tries} <= {"None", "1", "2"} and all(len(seen) <= 3 for seen in tries)
        assert [host.wait() for host in hosts] == [0, 0]
    finally:
        for host in hosts:
            host.kill()
            host.communicate()
    moves = Moves(registry, "fewstep-race")
    chain = [move.entry for move in moves.of["champion"]]
    assert len(chain) == won and [entry.former for entry in chain] == [None, *(entry.to for entry in chain[:-1])]
    assert chain[-1].to == registry.aliases("fewstep-race")["champion"]
    for number in (1, 2):
        place = Remote(tmp_path / f"host-{number - 1}")
        place.mlflow_uri = mlflow_url
        mine = [entry.to for entry in history(Registry(place), "fewstep-race") if entry.event == "promoted"]
        assert mine == [number] * len(mine) and len(mine) == sum(entry.to == number for entry in chain)


def test_dvc_pushes_to_and_pulls_from_the_store(environment, tmp_path):
    from tasks.storage.dvc import dvc_cache, dvc_repo

    root = tmp_path / "checkout"
    (root / "data").mkdir(parents=True)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"],
                    [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "store", "s3://fewstep/dvc"]):
        subprocess.run(command, cwd=root, check=True, env=environment, capture_output=True)
    (root / "params.yaml").write_text("name: toy\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    raw = root / "data" / "raw"
    raw.mkdir()
    for number in range(3):
        (raw / f"{number}.txt").write_text(str(number) * 100)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data/raw"], cwd=root, check=True, env=environment)
    workspace = Workspace(root)
    assert dvc_repo.push(workspace) > 0 and dvc_repo.push(workspace) == 0
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(raw)
    dvc_repo.pull(workspace, ["data/raw.dvc"])
    assert (raw / "2.txt").read_text() == "2" * 100
    shutil.rmtree(root / ".dvc" / "cache")
    md5 = next(line.split()[-1] for line in (root / "data/raw.dvc").read_text().splitlines() if "md5:" in line)
    copy = dvc_cache.from_cache(workspace, md5, tmp_path / "copy")  # as lineage does
    assert sorted(path.name for path in copy.iterdir()) == ["0.txt", "1.txt", "2.txt"]
    for path in root.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert Path(workspace.shared).parent == root


PUSH = """
from tasks.storage import remote_outputs as sharing
from tasks.storage.workspace import Workspace
print(*sharing.share_all(Workspace.find()))
"""


def test_another_machine_takes_what_this_one_made_and_hears_of_other_bytes(environment, tmp_path):
    given = {name: value for name, value in environment.items() if name.startswith("AWS_")}
    machines = [FakeProject(tmp_path / name) for name in ("one", "two", "three")]
    for machine in machines:
        machine.dvc("init", "-q")
        machine.dvc("remote", "add", "-q", "-f", "-d", "store", "s3://fewstep/machines")
    one, two, three = machines
    stages = ("shard", "encode")
    assert set(one.all(*stages, **given).values()) == {"made"}
    assert one.python(PUSH, **given).stdout.endswith("{}\n")
    assert set(two.all(*stages, **given).values()) == {"restored"}
    made = sorted((one.folder / "data").rglob("*.bin"))
    assert made
    for path in made:
        assert (two.folder / path.relative_to(one.folder)).read_bytes() == path.read_bytes()
    # announced under a key of ours with other bytes: both are kept, and it is said
    key = json.loads((one.folder / "data/shards/manifest.json").read_text())["key"]
    store = Store("s3://fewstep/machines")
    said = json.loads(store.read(f"fewstep/{key}.json"))
    store.client.put_object(Bucket="fewstep", Key=f"machines/fewstep/{key}.json",
                            Body=json.dumps({**said, "digest": "0" * 64}).encode())
    assert "other bytes under the same key (000000000000" in one.python(PUSH, **given).stdout
    # a store that does not answer is no reason not to make it
    outcome = three.all("shard", **{**given, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert outcome == {"shard": "made"}


def test_an_upload_that_a_death_left_is_given_up_once_it_is_idle(environment, tmp_path):
    from tasks.storage import remote_outputs

    project = FakeProject(tmp_path / "checkout")
    project.dvc("init", "-q")
    project.dvc("remote", "add", "-q", "-f", "-d", "store", "s3://fewstep/uploads")
    client = Store("s3://fewstep/uploads").client
    client.create_multipart_upload(Bucket="fewstep", Key="uploads/half")
    workspace = Workspace(project.folder)
    assert remote_outputs.give_up_uploads(workspace, timedelta(days=1)) == []
    assert remote_outputs.give_up_uploads(workspace, timedelta(0)) == ["uploads/half"]
    assert remote_outputs.give_up_uploads(workspace, timedelta(0)) == []
