"""A champion in another store: a copy of the bytes that outlives its source."""

import shutil
import subprocess
import sys

import mlflow
import pandas
import pytest

from fewstep.util.errors import DataDiffers, SettingsError
from tasks.registry import copy_version, register_model
from tasks.registry.aliases import history, move
from tasks.registry.model_registry import Registry
from tests.registry_world import Place, save_student
from tests.registry_world import registration as what


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student") / "exported")


def test_a_champion_in_another_store_outlives_its_source_and_its_garbage_collection(student, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    place = Place(here)
    version, _ = register_model.register(what(place, student, teacher="t" * 64, results={}))
    source = Registry(place)
    target = copy_version.open_store(place, f"sqlite:///{there}/mlflow.db")
    copied = copy_version.copy(source, version, target)
    assert copy_version.copy(source, version, target).number == copied.number == 1, "called again"
    for tag in ("weights", "teacher", "evaluation"):
        assert copied.tags[f"fewstep.{tag}"] == version.tags[f"fewstep.{tag}"]
    assert copied.provenance.origin.version == "fewstep-toy/1"
    move(target, copied, None, why="the first")
    assert source.aliases("fewstep-toy") == {"candidate": 1} and not history(source, "fewstep-toy")
    folder = target.pipeline(target.resolve("toy@champion"))
    assert folder.is_relative_to(there)

    source.tracking.client.delete_logged_model(version.source.removeprefix("models:/"))
    source.tracking.client.delete_registered_model("fewstep-toy")
    source.tracking.client.delete_run(version.run_id)
    done = subprocess.run([sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", place.mlflow_uri],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    shutil.rmtree(here / ".fewstep" / "mlartifacts")

    again = copy_version.open_store(place, f"sqlite:///{there}/mlflow.db")
    champion = again.resolve("toy@champion")
    again.pipeline(champion)
    assert again.snapshot(champion, tmp_path / "files").is_dir()
    model = mlflow.pyfunc.load_model("models:/fewstep-toy@champion")
    assert model.predict(pandas.DataFrame({"class": [0, 1]})).shape == (2, 8, 8, 1)


def test_damaged_bytes_are_not_copied(student, tmp_path):
    place = Place(tmp_path)
    version, _ = register_model.register(what(place, student))
    source = Registry(place)
    path = next(source.pipeline(version).rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    target = copy_version.open_store(place, f"sqlite:///{tmp_path}/other/mlflow.db")
    with pytest.raises(DataDiffers, match="differ from what was registered"):
        copy_version.copy(source, version, target)
    assert not (tmp_path / "other").exists()
    with pytest.raises(SettingsError, match="expected the address of an MLflow server"):
        copy_version.open_store(place, "ftp://user:hidden@host")
