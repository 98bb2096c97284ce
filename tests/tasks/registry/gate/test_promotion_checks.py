"""What keeps a version from being compared at all: half an evaluation, other protocols, broken or borrowed weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.registry.gate import promotion_checks
from tasks.registry.model_registry import Version
from tasks.registry.packaged import smoke_test, smoke_test_child
from tests.registry_world import CLASSES, save_student

PROTOCOL = {"features": "classifier-16", "features_digest": "f" * 64, "reference_digest": "d" * 64, "samples": 100}


def version(number=2, results=None, protocol=None) -> Version:
    results = results or {"protocol": "p", "student": {"1": {"kid": 0.1}}, "floors": {"recall": 0.5}}
    tags = {"fewstep.weights": str(number) * 64, "fewstep.results": json.dumps(results),
            "fewstep.protocols": json.dumps({"p": protocol or PROTOCOL})}  # fmt: skip
    return Version("fewstep-toy", number, tags, (), None, "")


@pytest.mark.parametrize(("results", "said"), [
    ({"student": {"1": {"kid": 0.1}}, "floors": {"recall": 0.5}}, "no protocol in its results"),
    ({"protocol": "p", "floors": {"recall": 0.5}}, "no student in its results"),
    ({"protocol": "q", "student": {"1": {"kid": 0.1}}, "floors": {"a": 1}}, "the protocol q is not registered"),
    ({"protocol": "p", "student": {"1": {"kid": None}}, "floors": {"a": 1}}, "kid measured with 1 steps"),
    ({"protocol": "p", "student": {"1": {}}, "floors": {"a": 1}}, "nothing measured with 1 steps"),
])  # fmt: skip
def test_half_an_evaluation_is_named(results, said):
    (reason,) = promotion_checks.incomplete(version(results=results))
    assert reason.startswith("its evaluation is incomplete") and said in reason
    assert promotion_checks.incomplete(version()) == []


def test_other_data_or_features_are_another_protocol_other_counts_are_not():
    champion = version(1, protocol={**PROTOCOL, "samples": 5000})
    assert promotion_checks.other_protocol(version(), champion) == []
    (reason,) = promotion_checks.other_protocol(version(protocol={**PROTOCOL, "features_digest": "e" * 64}), champion)
    assert "another protocol than fewstep-toy/1: features_digest is eeee" in reason
    (reason,) = promotion_checks.other_protocol(version(protocol={**PROTOCOL, "reference_digest": "e" * 64}), champion)
    assert "reference_digest" in reason


class Folders:
    """A registry that knows where versions lie and nothing else."""

    def __init__(self, folders: dict[int, Path]):
        self.folders = folders

    def pipeline(self, version: Version) -> Path:
        return self.folders[version.number]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("sound") / "exported")


def changed(student: Path, target: Path, change) -> Path:
    """A copy of the student with `change` made to its tensors."""
    shutil.copytree(student, target)
    path = next(target.rglob("*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return target


def test_the_champion_in_other_clothes_is_the_champion(student, tmp_path):
    clothes = shutil.copytree(student, tmp_path / "clothes")
    (clothes / "README.md").write_text("entirely new")
    path = clothes / "fewstep.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    steps = shutil.copytree(student, tmp_path / "steps")
    info = json.loads((steps / "fewstep.json").read_text())
    info["sampler"]["steps"] += 1
    (steps / "fewstep.json").write_text(json.dumps(info))
    other = changed(student, tmp_path / "other", lambda tensors: next(iter(tensors.values())).add_(1e-3))
    registry, champion = Folders({1: student, 2: clothes, 3: steps, 4: other}), version(1)
    assert "identical to the champion's" in promotion_checks.same_model(registry, version(2), champion)[0]
    assert promotion_checks.same_model(registry, version(3), champion) == []  # fewer or more steps: another model
    assert promotion_checks.same_model(registry, version(4), champion) == []
    assert promotion_checks.same_model(registry, replace(version(9), tags=champion.tags), champion)


def test_weights_that_are_not_finite_are_named(student, tmp_path):
    broken = changed(student, tmp_path / "nan", lambda tensors: tensors["conv_in.bias"].fill_(float("inf")))
    assert smoke_test.problems(broken) == [
        "weights are NaN or infinite: conv_in.bias in unet/diffusion_pytorch_model.safetensors"]  # fmt: skip
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no such thing")
    assert "no readable safetensors file" in smoke_test.problems(broken)[0]


def test_a_model_draws_by_class_where_only_torch_and_diffusers_are(student, tmp_path):
    assert smoke_test.problems(student) == []
    own = save_student(tmp_path / "own", "renoise")
    code = own / "pipeline.py"
    code.write_text(code.read_text().replace("import hashlib\n", "import hashlib\nimport fewstep\n"))
    (problem,) = smoke_test.alone(own)
    assert "torch and diffusers only" in problem and "No module named 'fewstep'" in problem


def test_a_model_that_does_not_look_at_the_class_or_the_noise_is_named(student, tmp_path):
    def blind(tensors):
        tensors["class_embedding.weight"].zero_()

    (problem,) = smoke_test_child.examine(changed(student, tmp_path / "blind", blind))
    assert "the class makes no difference: it draws the same for classes 0 and 1" in problem and CLASSES > 1

    def constant(tensors):
        for name, tensor in tensors.items():
            tensor.copy_(torch.zeros_like(tensor) if name.startswith("conv_out") else tensor)

    assert smoke_test_child.examine(changed(student, tmp_path / "constant", constant))
