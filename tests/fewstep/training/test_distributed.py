"""One and several processes make the same bits: gradients of every recipe, a whole run, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewstep.objectives.continuous_consistency import loss as continuous_consistency
from fewstep.objectives.self_adversarial import loss as self_adversarial
from fewstep.recipes import parse_recipe
from fewstep.training import distributed
from fewstep.training.distributed import World
from fewstep.training.gradient_sums import add_gradients, sum_in_order
from fewstep.training.recipe_fit import require_shardable
from fewstep.training.rehearsal.rounds import Machine, rehearse
from fewstep.training.roles import fit_network
from fewstep.util.errors import SettingsError
from tests.fewstep.training import process_group
from tests.fewstep.training.small import finish, tiny
from tests.fewstep.training.small import run as small_run
from tests.fewstep.training.small import teacher as small_teacher

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes of one group made."""
    return made_by_two(tmp_path_factory.mktemp("two"))


def made_by_two(folder, *more):
    command = [sys.executable, "-m", "tests.fewstep.training.process_group", str(folder)]
    running = [
        subprocess.Popen([*command, str(rank), "2", str(folder / "meeting"), *more], cwd=ROOT, text=True,
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


def require_alike(name, folder, tmp_path):
    """Gradients of networks in shards are those of one process but for the order of sums."""
    one = process_group.gradients(name, tmp_path)
    assert not [path.read_text() for path in folder.glob(f"{name}-sharded-?.failed")]
    both = [load_file(folder / f"{name}-sharded-{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])
    assert one.keys() == both[0].keys()
    assert all(apart <= 1e-12 * norm for norm, apart in differences(one, both[0]).values())


@pytest.mark.parametrize("name", process_group.SHARDED)
def test_two_processes_that_hold_shards_give_the_gradients_of_one(name, two, alone, tmp_path):
    require_alike(name, two, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_networks_in_shards_give_the_gradients_of_one_process_in_every_recipe(alone, tmp_path):
    made_by_two(tmp_path, "every")
    for name in process_group.NAMES:
        require_alike(name, tmp_path, tmp_path / "alone")


def test_shards_with_all_that_saves_memory_leave_what_rests_as_it_was(two, alone, tmp_path):
    """Teachers in bfloat16 below adapters, averages on the CPU, checkpointed blocks: each process has the student."""
    both = [load_file(two / f"saving-{rank}.safetensors") for rank in range(2)]
    one = finish(process_group.saving(tmp_path, shards=False))
    assert one.keys() == both[0].keys() and all(torch.equal(both[0][key], both[1][key]) for key in one)
    for key, value in one.items():
        if ".lora_" not in key and "scale" not in key:
            assert torch.equal(both[0][key], value), key
    moved = [key for key in one if "lora_B" in key]
    assert all(torch.isfinite(both[0][key]).all() and both[0][key].any() for key in moved)


def test_what_is_estimated_of_shards_is_what_a_process_holds(two):
    rounds = rehearse(tiny("dmd2", parts=2), small_teacher(), Machine(gpu=False, devices=2))
    estimated = {one.role: one for one in rounds[0].shards.roles}
    found = json.loads((two / "held-0.json").read_text())
    assert found.keys() == estimated.keys()
    for role, kinds in found.items():
        for kind, held in kinds.items():
            assert abs(getattr(estimated[role], kind) - held) <= 0.02 * held, (role, kind)
    whole = {one.role: one for one in rounds[0].roles}
    assert all(0.5 * one.total <= estimated[role].total < 0.6 * one.total for role, one in whole.items())
    assert 0 < rounds[0].shards.total < rounds[0].total


def test_what_shards_cannot_serve_is_refused_before_any_work(alone, tmp_path):
    data = process_group.recipe_of("dmd2").model_dump(mode="json")
    term = next(term for term in data["rounds"][0]["terms"] if term["term"] == "adversarial")
    term["gradient_penalty"] = {"kind": "exact"}
    recipe = parse_recipe(data, "dmd2")
    with pytest.raises(SettingsError, match="adversarial differentiates the gradient of a network once") as refused:
        small_run(recipe, tmp_path, shards=True)
    assert "gradient_penalty" in refused.value.hint and "compute.parallel: replicate" in refused.value.hint
    small_run(recipe, tmp_path)
    with pytest.raises(SettingsError, match="compute.parallel: shard does not serve recipe kd .* no stages"):
        require_shardable(tiny("kd"), torch.nn.Linear(2, 2))


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


@pytest.mark.parametrize(("sizes", "expected"), [
    ([], []), ([3], [(0, 1)]), ([3, 4, 3], [(0, 2), (2, 3)]), ([9, 1, 1], [(0, 1), (1, 3)]),
    ([1, 9, 1], [(0, 1), (1, 2), (2, 3)]),
])
def test_gradients_cross_the_wire_in_buckets(sizes, expected):
    assert [(bucket.start, bucket.stop) for bucket in distributed._buckets(sizes, 7)] == expected
