"""The stages' declarations against the code, dvc.yaml and each other; who may import whom."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from fewstep.util.errors import SettingsError
from tasks.config.schema import WATCHED, Settings
from tasks.engine import graph
from tasks.engine.stage_key import code_files
from tasks.storage import dvc_lockfile
from tests.closure import ROOT, closure, imports

IN_DVC = [stage for stage in graph.STAGES if stage.in_dvc]
READ_AS_TEXT = {"fewstep/students/pipelines"}    # copied into exported folders, never imported


@pytest.mark.parametrize("stage", IN_DVC, ids=lambda stage: stage.name)
def test_declared_modules_are_what_the_implementation_can_import(stage):
    wanted = closure(stage.implementation)
    missing = sorted(wanted - set(code_files(stage)))
    assert not missing, f"tasks/engine/graph.py: add to the modules of '{stage.name}' (and to dvc.yaml): {missing}"
    for name in stage.modules:
        inside = {file for file in wanted if file == name or file.startswith(f"{name}/")}
        assert inside or name in READ_AS_TEXT, f"tasks/engine/graph.py: '{stage.name}' does not use {name}"


@pytest.mark.parametrize("stage", IN_DVC, ids=lambda stage: stage.name)
def test_dvc_yaml_says_the_same_as_the_graph(stage):
    entry = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"][stage.name]
    inputs = [graph.stage(name).output for name in stage.inputs]
    assert sorted(entry["deps"]) == sorted([*inputs, *stage.modules, *(f"${{given.{name}}}" for name in stage.given)])
    assert entry["cmd"] == f"fewstep stage run {stage.name}"
    assert entry["params"] == list(stage.params) and set(stage.params) <= set(WATCHED)
    assert entry["outs"] == [{stage.output: {"persist": True}}]


def test_dvc_yaml_has_all_stages_in_order_and_names_outside_inputs():
    document = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    assert list(document["stages"]) == [stage.name for stage in IN_DVC]
    assert set(document["vars"][0]["given"]) == set(graph.given(Settings(), ROOT))
    assert set(document["vars"][0]["given"].values()) == {dvc_lockfile.NONE_GIVEN}
    assert document["metrics"] == ["data/evaluation/metrics.json"]
    seen: set[str] = set()
    for stage in graph.STAGES:
        assert set(stage.inputs) <= seen
        seen.add(stage.name)


def test_resolved_settings_are_plain_data_and_complete():
    for stage in graph.STAGES:
        resolved = stage.settings(Settings())
        assert json.loads(json.dumps(resolved)) == resolved
    assert "workers" not in graph.stage("trajectories").settings(Settings())     # changes no byte


def test_unknown_stages_are_named():
    with pytest.raises(SettingsError, match="unknown stage 'distil'; did you mean 'distill'"):
        graph.stage("distil")


def _imported(layer: str) -> list[tuple[str, str]]:
    return [(path.relative_to(ROOT).as_posix(), name) for path in sorted((ROOT / layer).rglob("*.py"))
            for name in imports(path, ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))]


def test_imports_go_one_way():
    assert [pair for pair in _imported("fewstep") if pair[1].split(".")[0] in ("tasks", "flows")] == []
    assert [pair for pair in _imported("tasks") if pair[1].split(".")[0] == "flows"] == []


def test_each_outside_system_is_imported_at_one_seam():
    seams = {"dvc": {"tasks/storage/dvc_repo.py", "tasks/data/image_folder.py"}, "dvc_data": {"tasks/storage/dvc_repo.py"},
             "prefect": {"flows/"}, "boto3": {"tasks/storage/object_store.py"}, "botocore": {"tasks/storage/object_store.py"}}
    for layer in ("fewstep", "tasks", "flows"):
        for file, name in _imported(layer):
            package = name.split(".")[0]
            if package in seams:
                assert any(file.startswith(seam) for seam in seams[package]), f"{file} imports {name}"
            if package == "mlflow":
                assert layer == "tasks" or file.startswith("flows/"), f"{file} imports {name}"


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
    code = ("import sys, fewstep, fewstep.recipes, tasks.engine.plan, tasks.engine.runner, tasks.config.preflight, tasks.storage.locks\n"
            "print([name for name in ('torch', 'numpy', 'prefect', 'mlflow', 'dvc', 'boto3', 'diffusers')"
            " if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
