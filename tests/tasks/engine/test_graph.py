"""The stages against each other, dvc.yaml and params.yaml; who may import whom."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError
from tasks.config.outside import outside_paths
from tasks.config.params_file import watched
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.stage_code import DECIDES
from tasks.stages.base import Stage
from tasks.storage.dvc import dvc_yaml
from tasks.storage.workspace import Workspace
from tests.closure import ROOT, imported

RECIPES = ("kd", "dmd2", "progressive", "lcm-lora")


def test_the_stages_in_an_order_in_which_they_can_run():
    assert [stage.name for stage in graph.STAGES] == [
        "shard", "encode", "teacher", "reference", "classifier", "trajectories", "distill", "baselines", "evaluate",
        "register"]  # fmt: skip
    assert [stage.name for stage in graph.IN_DVC] == [stage.name for stage in graph.STAGES][:-1]


def test_dvc_yaml_is_what_the_stages_say():
    assert dvc_yaml.render(Settings(), Workspace(ROOT)) == (ROOT / "dvc.yaml").read_text(), "run `make dvc.yaml`"
    document = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    assert list(document["stages"]) == [stage.name for stage in graph.IN_DVC]
    assert document["metrics"] == ["data/evaluation/metrics.json"] and len(document["plots"]) == 2
    for stage in graph.IN_DVC:
        entry = document["stages"][stage.name]
        inputs = [graph.stage(name).output for name in stage.inputs]
        assert entry["deps"] == [*inputs, *(f"${{given.{name}}}" for name in stage.outside), *DECIDES]
        assert entry["cmd"] == f"fewstep stage run {stage.name}"
        assert entry["params"] == list(stage.params) and set(stage.params) <= set(watched())
        assert entry["outs"] == [{stage.output: {"persist": True}}]
    assert set(document["vars"][0]["given"]) == set(outside_paths(Settings(), ROOT))
    assert set(document["vars"][0]["given"].values()) == {dvc_yaml.NONE_GIVEN}


@pytest.mark.parametrize("recipe", RECIPES)
def test_resolved_settings_are_plain_data_complete_and_parse_again(recipe):
    settings = Settings()
    settings = settings.model_copy(update={"distill": settings.distill.model_copy(update={"recipe": recipe})})
    for stage in graph.STAGES:
        resolved = stage.resolve(settings)
        plain = resolved.model_dump(mode="json")
        assert json.loads(json.dumps(plain)) == plain
        assert stage.parse(plain, "manifest.json") == resolved, stage.name
        short = stage.shortened(resolved)
        assert stage.parse(short.model_dump(mode="json"), "short run") == short
    assert "workers" not in graph.stage("trajectories").resolve(settings).model_dump()     # changes no byte


def test_unknown_stages_are_named():
    with pytest.raises(SettingsError, match="unknown stage 'distil'; did you mean 'distill'"):
        graph.stage("distil")


def stages(**inputs: tuple[str, ...]) -> list[Stage]:
    """Stages of these names that read what is given, in DVC but for `last`."""
    class Nothing(Stage):
        settings_type = Strict
        resolve = units = run_unit = finish = None

    made = [type(name, (Nothing,), {"name": name, "output": name, "inputs": read, "in_dvc": name != "last"})
            for name, read in inputs.items()]  # fmt: skip
    return [kind() for kind in made]


def test_the_order_follows_what_stages_read_and_mistakes_are_named():
    ordered = graph.in_order(stages(last=("c", "a"), c=("b",), b=("a",), a=()))
    assert [stage.name for stage in ordered] == ["a", "b", "c", "last"]
    with pytest.raises(SettingsError, match="stages read each other: a ← b ← a"):
        graph.in_order(stages(a=("b",), b=("a",)))
    with pytest.raises(SettingsError, match="stage 'a' reads 'z', which no stage makes"):
        graph.in_order(stages(a=("z",)))
    with pytest.raises(SettingsError, match="the same name or the same output folder"):
        graph.in_order([*stages(a=()), *stages(a=())])


def test_imports_go_one_way():
    assert [pair for pair in imported("fewstep") if pair[1].split(".")[0] in ("tasks", "flows")] == []
    assert [pair for pair in imported("tasks") if pair[1].split(".")[0] == "flows"] == []


SEAMS = {  # outside system: files and folders that may import it
    "dvc": ("tasks/storage/dvc/",), "dvc_data": ("tasks/storage/dvc/",),
    "mlflow": ("tasks/tracking/mlflow_client.py", "tasks/tracking/mlflow_server.py",
               "tasks/registry/packaged/pyfunc_model.py"),
    "boto3": ("tasks/storage/object_store.py",), "botocore": ("tasks/storage/object_store.py",),
    "opentelemetry": ("flows/telemetry/otel_providers.py", "flows/telemetry/otel_observer.py",
                      "flows/telemetry/otel_served.py"),
    "prefect": ("flows/",), "ray": ("flows/executors/ray_",),
}  # fmt: skip


def test_each_outside_system_is_imported_at_one_seam():
    users: dict[str, set[str]] = {package: set() for package in SEAMS}
    for layer in ("fewstep", "tasks", "flows"):
        for file, name in imported(layer):
            package = name.split(".")[0]
            if package in SEAMS:
                assert file.startswith(SEAMS[package]), f"{file} imports {name}"
                users[package].add(next(seam for seam in SEAMS[package] if file.startswith(seam)))
    unused = {(package, seam) for package, seams in SEAMS.items() for seam in seams if seam not in users[package]}
    assert not unused, "a seam that nothing passes is no seam"


def test_nothing_is_ever_unpickled():
    for layer in ("fewstep", "tasks", "flows"):
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    assert not {"pickle", "cloudpickle", "joblib", "dill"} & set(names), path
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    raise AssertionError(f"{path}:{node.lineno} calls torch.load")


def test_what_decides_is_quick_to_import():
    code = ("import sys, fewstep, fewstep.recipes, tasks.engine.plan, tasks.engine.runner, tasks.config.preflight\n"
            "print([name for name in ('torch', 'numpy', 'prefect', 'mlflow', 'dvc', 'boto3', 'diffusers')"
            " if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
