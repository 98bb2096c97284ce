"""Registering: one version whatever happens, bytes that are checked, a model that samples."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from fewstep.students.export import load_student
from fewstep.util.errors import DataDiffers, NotAvailable, SettingsError
from tasks.registry import register_model
from tasks.registry.model_registry import Registry, parse
from tasks.registry.packaged import pyfunc_model
from tasks.storage.sharing import lease
from tasks.storage.sharing.host import owner
from tasks.storage.sharing.shared_store import shared_store
from tests.children import OtherProcess
from tests.registry_world import Place, save_student, with_database
from tests.registry_world import registration as what


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student") / "exported")


@pytest.fixture(scope="module")
def registered(tmp_path_factory, student):
    """A registry with one version that nobody changes."""
    place = Place(tmp_path_factory.mktemp("registered"))
    version, made = register_model.register(what(place, student, teacher="t" * 64))
    assert made
    own = save_student(tmp_path_factory.mktemp("own") / "exported", "renoise")
    assert (own / "pipeline.py").is_file()
    register_model.register(what(place, own, model="fewstep-own"))
    return place, version


def test_references():
    assert parse("digits") == ("fewstep-digits", None, None)
    assert parse("fewstep-digits@champion") == ("fewstep-digits", "champion", None)
    assert parse("digits/v12") == ("fewstep-digits", None, 12)
    for bad in ("", "@champion", "digits@", "digits/x", "a b", "digits@champion/3"):
        with pytest.raises(SettingsError, match="names no model"):
            parse(bad)


def test_a_registered_version_has_lineage_snapshot_and_alias(registered, tmp_path):
    place, version = registered
    registry = Registry(place)
    assert registry.resolve("toy@candidate").number == version.number == 1
    assert version.tags["fewstep.teacher"] == "t" * 64
    folder = registry.snapshot(version, tmp_path / "files")
    assert (folder / "params.yaml").read_bytes() == (place.root / "params.yaml").read_bytes()
    run = registry.tracking.client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"student/kid": 0.5}
    assert not list((place.shared / "registry/fewstep-toy").glob("upload-*"))


def test_the_card_and_its_pictures_lie_beside_the_pipeline(student, tmp_path):
    place = Place(tmp_path)
    registration, files = what(place, student), ("README.md", "student.png", "teacher.png")
    for name in files:
        (tmp_path / name).write_text(f"---\n---\n# {name}")
        registration.snapshot[name] = tmp_path / name
    version, _ = register_model.register(registration)
    folder = Registry(place).pipeline(version)
    assert not any((folder / name).exists() for name in files)      # whose digest is the identity of the weights
    assert all((folder.parents[1] / name).read_text().endswith(name) for name in files)


def test_registering_the_same_again_makes_nothing(registered, student):
    place, version = registered
    again, made = register_model.register(what(place, student))
    assert (again.number, made) == (version.number, False)


def test_unknown_names_say_what_is_known(registered):
    registry = Registry(registered[0])
    with pytest.raises(NotAvailable, match=r"no alias 'champion' \(aliases: candidate\)"):
        registry.resolve("toy")
    with pytest.raises(NotAvailable, match=r"no version 7 \(versions: 1\)"):
        registry.resolve("toy/7")
    with pytest.raises(NotAvailable, match=r"no model 'fewstep-nobody' is registered \(models: own, toy\)"):
        registry.resolve("nobody")


SAMPLE = textwrap.dedent(
    """
    import sys
    import mlflow, numpy, pandas
    mlflow.set_tracking_uri(sys.argv[1])
    for name in ("toy", "own"):     # a stock pipeline, and one with code of its own
        model = mlflow.pyfunc.load_model(f"models:/fewstep-{name}@candidate")
        both = model.predict(pandas.DataFrame({"class": [0, 2], "seed": [5, 6]}))
        alone = model.predict(pandas.DataFrame({"class": [2], "seed": [6]}))
        assert both.shape == (2, 8, 8, 1) and both.dtype == numpy.float32 and both.min() >= 0 and both.max() <= 1
        numpy.testing.assert_allclose(both[1], alone[0], atol=1e-5)
        other = model.predict(pandas.DataFrame({"class": [1], "seed": [6]}))
        assert abs(other - alone).max() > 1e-4      # the class matters
        assert model.predict(pandas.DataFrame({"n": [7]}), params={"steps": 2}).shape[0] == 7
        assert model.metadata.signature is not None
        for bad in ({"class": [3]}, {"colour": [1]}):
            try:
                model.predict(pandas.DataFrame(bad))
            except Exception:
                continue
            raise SystemExit(f"{bad} was accepted")
    numpy.save(sys.argv[2], model.predict(pandas.DataFrame({"class": [0, 2], "seed": [5, 6]}), params={"steps": 1}))
    for name in ("fewstep", "tasks", "prefect", "dvc"):
        assert name not in sys.modules, name
    """
)


def test_mlflow_loads_it_and_samples_by_class_without_this_project(registered, tmp_path):
    place, _ = registered
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", SAMPLE, place.mlflow_uri, "drawn.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr and "Loading" not in done.stderr
    # what others draw in one step is what our own loader draws from the same noise
    registry = Registry(place)
    one = load_student(registry.pipeline(registry.resolve("own@candidate")))
    noise = torch.stack([torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)])
    own = one.sample(noise, steps=1, condition=torch.tensor([0, 2])).clamp(-1, 1) / 2 + 0.5
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "drawn.npy"))[..., 0], own[:, 0], atol=1e-5)


def test_a_flipped_bit_in_the_registry_is_noticed_by_both_loaders(student, tmp_path):
    import mlflow

    place = Place(tmp_path)
    version, _ = register_model.register(what(place, student))
    registry = Registry(place)
    path = next(registry.pipeline(version).rglob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataDiffers, match="differ from what was registered"):
        registry.pipeline(version)
    with pytest.raises(Exception, match="differs from what was registered"):
        mlflow.pyfunc.load_model("models:/fewstep-toy@candidate")
    shutil.rmtree(path.parents[1])
    with pytest.raises(NotAvailable, match="are gone"):
        registry.pipeline(version)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def registering(place, student, count=None, inside=None):
    """Registers, killed before step number `count` or where `inside` is called."""
    if inside is not None:
        setattr(*inside, die)
    if count is not None:
        register_model.STEPS = (*register_model.STEPS[:count], die, *register_model.STEPS[count:])
    register_model.register(what(place, student))


def test_killed_anywhere_it_ends_in_one_version(student, tmp_path):
    place = Place(tmp_path)
    killed = (-signal.SIGKILL, "")
    for count in range(4):
        assert OtherProcess(lambda count=count: registering(place, student, count)).wait() == killed
    # in the upload: what stays pending in MLflow is set right by reconcile, and by registering again
    assert OtherProcess(lambda: registering(place, student, inside=(pyfunc_model, "package"))).wait() == killed
    assert OtherProcess(lambda: lines_of_tidy(place, 3)).wait()[0] == 0
    assert OtherProcess(lambda: registering(place, student, inside=(pyfunc_model, "package"))).wait() == killed
    for count in range(4, len(register_model.STEPS) + 1):
        assert OtherProcess(lambda count=count: registering(place, student, count)).wait() == killed
    version, made = register_model.register(what(place, student))
    assert not made
    registry = Registry(place)
    assert [item.number for item in registry.versions("fewstep-toy")] == [version.number] == [1]
    assert version.aliases == ("candidate",)
    experiment = [registry.tracking.experiment("toy")]
    assert len(registry.tracking.client.search_logged_models(experiment)) == 1
    assert [run.info.status for run in registry.tracking.client.search_runs(experiment)] == ["FINISHED"]
    registry.pipeline(version)
    assert register_model.tidy(registry) == []


def lines_of_tidy(place, count):
    lines = register_model.tidy(Registry(place))
    assert len(lines) == count, lines
    assert register_model.tidy(Registry(place)) == []


class Host(Place):
    """A host of its own, on an MLflow that several share."""

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root.parent / 'common' / 'mlflow.db'}"


@pytest.fixture
def hosts(tmp_path):
    with_database(tmp_path / "common")
    made = [Host(tmp_path / name) for name in ("one", "two")]
    for host in made:
        folder = host.shared / "registry" / "fewstep-toy"   # as of a host that registered versions before
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        (host.shared / "mlflow.db").touch()                 # the world's helper would make one
    return made


def test_where_hosts_share_no_store_only_its_own_host_tidies_a_registration(hosts, student):
    one, two = hosts
    killed = OtherProcess(lambda: registering(one, student, inside=(pyfunc_model, "package"))).wait()
    assert killed == (-signal.SIGKILL, "")
    for host, lines in ((two, 0), (one, 3)):
        code, said = OtherProcess(lambda host=host, lines=lines: lines_of_tidy(host, lines)).wait()
        assert code == 0, said


def test_another_host_tidies_a_registration_once_its_lease_is_gone(hosts, student, s3_prefix, monkeypatch):
    one, two = hosts
    for host in hosts:
        (host.root / ".dvc").mkdir()
        (host.root / ".dvc" / "config").write_text(
            f"[core]\n    remote = store\n['remote \"store\"']\n    url = {s3_prefix}\n")
    monkeypatch.setenv(lease.SECONDS, "3600")
    killed = OtherProcess(lambda: registering(one, student, inside=(pyfunc_model, "package"))).wait()
    assert killed == (-signal.SIGKILL, "")
    code, said = OtherProcess(lambda: lines_of_tidy(two, 0)).wait()
    assert code == 0, said
    dead = lease.Holder(owner=owner(one), host="one", pid=1)
    lease.take(shared_store(one), "models/fewstep-toy", dead, alone_here=True).give_back()
    code, said = OtherProcess(lambda: lines_of_tidy(two, 2)).wait()
    assert code == 0, said
