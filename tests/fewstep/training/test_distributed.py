"""One and several processes make the same bits: gradients of every recipe, a whole run, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewstep.objectives.continuous_consistency import loss as continuous_consistency
from fewstep.objectives.self_adversarial import loss as self_adversarial
from fewstep.training.distributed import World
from fewstep.training.gradient_sums import add_gradients, sum_in_order
from fewstep.training.roles import fit_network
from fewstep.util.errors import SettingsError
from tests.fewstep.training import process_group

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes of one group made."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "tests.fewstep.training.process_group", str(folder)]
    running = [
        subprocess.Popen([*command, str(rank), "2", str(folder / "meeting")], cwd=ROOT, text=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for rank in range(2)
    ]  # fmt: skip
    for process in running:
        said = process.communicate()[1]
        assert process.returncode == 0, said
    return folder


@pytest.fixture
def alone(monkeypatch):
    """This process is the only one, and its stand-ins are like those of the others."""
    monkeypatch.setattr(fit_network.fit, "__defaults__", fit_network.fit.__defaults__)
    monkeypatch.setattr(fit_network, "_fitted", {})
    assert World.current() == World(0, 1)


@pytest.mark.parametrize("name", process_group.NAMES)
def test_one_and_two_processes_give_the_same_gradients_bit_for_bit(name, two, alone, tmp_path):
    one = process_group.gradients(name, tmp_path)
    assert not [path.read_text() for path in two.glob(f"{name}-?.failed")]
    both = [load_file(two / f"{name}-{rank}.safetensors") for rank in range(2)]
    assert one and one.keys() == both[0].keys()
    assert all(torch.equal(both[rank][key], one[key]) for rank in range(2) for key in one)
    assert all(norm > 0 for norm, _ in differences(one, both[0]).values())


def differences(one: dict, other: dict) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(norm of the gradient, of its difference) by turn: relative to the whole turn's, as a weight's may be zero."""
    found = {}
    for turn in {key.rsplit("/", 1)[0] for key in one}:
        own = [key for key in one if key.rsplit("/", 1)[0] == turn]
        assert one[own[0]].dtype == torch.float64
        found[turn] = tuple(
            torch.stack([part.norm() for part in parts]).norm()
            for parts in ([one[key] for key in own], [one[key] - other[key] for key in own])
        )
    return found


def without_derivative(monkeypatch):
    """Nothing comes from the network's own derivative (continuous_consistency)."""
    whole = continuous_consistency.tangent
    monkeypatch.setattr(continuous_consistency, "tangent", lambda *given: whole(*given[:-1], share=0.0))


def without_rectification(monkeypatch):
    """The student's samples are not pulled (self_adversarial)."""
    monkeypatch.setattr(self_adversarial, "normaliser", lambda x, _: torch.zeros(len(x)))


@pytest.mark.parametrize(
    ("name", "without"),
    [("scm", without_derivative), ("tbcm", without_derivative), ("twinflow", without_rectification)],
)
def test_what_comes_in_during_a_round_is_in_what_is_compared(name, without, two, alone, tmp_path, monkeypatch):
    """The late gradients of two processes depend on it, those of the start do not."""
    without(monkeypatch)
    compared = load_file(two / f"{name}-0.safetensors")
    for turn, (norm, apart) in differences(compared, process_group.gradients(name, tmp_path)).items():
        assert apart > 1e-4 * norm if "/late/" in turn else apart <= 1e-10 * norm, (turn, apart / norm)


def test_a_run_of_two_processes_is_the_run_of_one(two, alone, tmp_path):
    """Both end in the very student that one process makes, and one process reads what they left as its own."""
    one = process_group.run(tmp_path)
    again = process_group.run(two / "run")
    for rank in range(2):
        student = load_file(two / f"student-{rank}.safetensors")
        assert student.keys() == one.keys()
        assert all(torch.equal(student[name], one[name]) and torch.equal(again[name], one[name]) for name in one)
    kept = sorted(path.relative_to(two / "run") for path in (two / "run").rglob("*.safetensors"))
    assert kept and all((two / "run" / path).read_bytes() == (tmp_path / path).read_bytes() for path in kept)


def test_processes_that_differ_are_refused_together(two):
    for rank in range(2):
        said = (two / f"refused-{rank}").read_text()
        assert said.startswith("process 1 of 2 differs from process 0 in what it is about to train")


def test_parts_of_a_batch_are_disjoint_and_whole():
    taken = [i for rank in range(3) for k in range(2) for i in range(24)[World(rank, 3).rows(k, 2, 24)]]
    assert taken == list(range(24)) and World().rows(0, 1, 24) == slice(0, 24)


@pytest.mark.parametrize("parts", range(1, 25))
def test_who_sums_which_parts_changes_no_bit(parts):
    """Every number of processes that may share the parts, each summing its own first."""
    source = torch.Generator().manual_seed(parts)
    numbers = torch.randn(parts, 64, generator=source) * 10 ** (4 * torch.rand(parts, 1, generator=source))
    alone = sum_in_order(list(numbers.clone()))
    sizes = [size for size in range(1, parts + 1) if World(0, size).shares(parts)]
    for size in sizes:
        own = [sum_in_order(list(share)) for share in numbers.clone().reshape(size, parts // size, 64)]
        assert torch.equal(sum_in_order(own), alone), size


def test_what_only_one_part_has_a_gradient_of_counts_as_zeros_in_the_others():
    x = torch.ones(2)
    found = add_gradients([x, None, None, x.clone()], [None, x.clone(), None, x.clone()])
    assert found[2] is None and [float(one.sum()) for one in (found[0], found[1], found[3])] == [2, 2, 4]


def test_processes_that_cannot_share_the_parts_are_refused(alone, monkeypatch, tmp_path):
    monkeypatch.setattr(World, "current", staticmethod(lambda: World(0, 3)))
    with pytest.raises(SettingsError, match="3 processes cannot share 2 parts of a batch"):
        process_group.distillation("ct", tmp_path).trainer(0)
