"""The conformance suite: its problems, its bar, its record; and, marked slow, every recipe on every problem."""

import json
import os

import pytest
import torch

from fewstep.conformance import cells, conformance_table, verdict
from fewstep.conformance.__main__ import main, usual_process
from fewstep.conformance.cell_code import code_digest, modules_of
from fewstep.conformance.cells import Cell, make_all
from fewstep.conformance.known_misses import DIGITS, known_misses, surprises
from fewstep.conformance.problems import MIXTURES, PROCESSES, SUITE, Problem
from fewstep.conformance.targets import target_of
from fewstep.conformance.traces import FORM
from fewstep.objectives.consistency import loss as consistency_loss
from fewstep.recipes import load_recipe, recipe_names
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.student import Student
from fewstep.training.roles import fit_network
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.source_code import ROOT, SourceTree

RECIPES = ROOT / "fewstep" / "recipes"


class Exact:
    """A student that draws from the target; `spoil` changes its samples."""

    def __init__(self, target, spoil=lambda x: x):
        self.target, self.spoil, self.denoiser = target, spoil, target.teacher

    def sample(self, noise, condition=None, seed=0):
        before = self.denoiser.evaluations
        drawn = self.spoil(self.target.samples(len(noise), 77))
        self.denoiser.evaluations = before + 1  # whatever the target's own samples cost
        return drawn


@pytest.fixture
def target():
    return target_of(load_recipe("dmd2"), Problem("ring").teacher(), SamplerSettings())


@pytest.fixture
def quick(monkeypatch):
    """Fewer samples to judge by, and a stand-in fitted less."""
    monkeypatch.setattr(verdict, "SIMULATIONS", 20)
    monkeypatch.setattr(verdict, "COUNT", 1000)
    monkeypatch.setattr(fit_network.fit, "__defaults__", ("cpu", 200))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", MIXTURES)
def test_every_problem_is_a_mixture_in_every_process_and_dimension(kind, process):
    plane, space = Problem(kind, process).teacher(), Problem(kind, process, dimension=5).teacher()
    assert plane.sample_shape == (2,) and space.sample_shape == (5,)
    if kind != "random":  # turned, the means stay as far apart
        assert torch.allclose(torch.cdist(plane.means, plane.means), torch.cdist(space.means, space.means), atol=1e-6)
    else:
        assert not torch.equal(Problem(kind, variant=1).teacher().means[:2], plane.means[:2])
    assert Problem(kind).name == kind


def test_unknown_problems_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'ring'"):
        Problem("rings")
    with pytest.raises(SettingsError, match="did you mean 'cosine'"):
        Problem("ring", "cosin")


def test_exact_samples_meet_the_bar_and_what_spoils_them_does_not(target, quick):
    null = verdict.null_quantile(target)
    strict = {1: ("none", 0.0)}  # so that the bar is the null's quantile

    def missed(spoil):
        return verdict.judge(target, Exact(target, spoil), null, strict)["missed"]

    assert not missed(lambda x: x)
    assert "distance" in missed(lambda x: x + 0.1)[0]
    assert "distance" in missed(lambda x: torch.where(torch.arange(len(x))[:, None] == 5, torch.nan, x))[0]
    lost = target.mixture.exact_samples(verdict.COUNT, torch.Generator().manual_seed(3),
                                        torch.arange(verdict.COUNT) % 7)  # fmt: skip
    assert "1 of 8 modes off" in missed(lambda x: lost)[1]


def test_students_that_share_the_classes_are_asked_for_every_class_by_its_weight(quick):
    target = target_of(load_recipe("msd"), Problem("pair").teacher(), SamplerSettings())
    labels = target.asked(1000)
    assert labels.bincount().tolist() == [800, 200] and target.condition(1000) is None

    class ByClass(Exact):
        def sample(self, noise, condition=None, seed=0):
            self.denoiser.evaluations += 1
            return self.spoil(target.mixture.exact_samples(len(noise), torch.Generator().manual_seed(5), condition))

    strict = {1: ("none", 0.0)}
    assert not verdict.judge(target, ByClass(target), verdict.null_quantile(target), strict)["missed"]
    second = ByClass(target, lambda x: torch.where((torch.arange(len(x)) >= 800)[:, None], x - 6, x))
    assert verdict.judge(target, second, verdict.null_quantile(target), strict)["missed"]


def test_the_best_solver_is_the_nearest_at_exactly_so_many_evaluations(target, quick):
    found = [verdict.best_solver(target, count)[1] for count in (1, 2, 8)]
    assert found == sorted(found, reverse=True) and found[2] < 0.2 * found[0]


@pytest.mark.parametrize(("name", "scale"), [("lora-guidance", 2.0), ("laptop-diff", 1.0)])
def test_a_cheaper_student_is_to_follow_the_teachers_own_steps(name, scale, quick):
    """The teacher under the student's steps agrees with itself; off by a little noise it does not."""
    recipe, teacher, sampler = load_recipe(name), Problem("ring").teacher(), SamplerSettings(steps=8)
    target = target_of(recipe, teacher, sampler)
    assert target.guidance == scale and target.cheaper
    null, solvers = verdict.null_quantile(target), {}

    class Same(Exact):
        def sample(self, noise, condition=None, seed=0):
            self.denoiser.evaluations += 8
            return self.spoil(target.flow(noise))

    found = verdict.judge(target, Same(target), null, solvers)
    assert not found["missed"] and found["agreement"]["correlation"] == pytest.approx(1)
    noisy = verdict.judge(target, Same(target, lambda x: x + 0.4 * torch.randn_like(x)), null, solvers)
    assert "correlation" in noisy["missed"][-1]
    if scale == 1:
        noise = torch.randn(64, 2)
        assert torch.equal(target.flow(noise), Student(teacher, sampler).sample(noise))


def test_a_flow_map_is_compared_in_one_step_whatever_steps_it_is_sampled_by(quick):
    """Exact samples, of which after the second step's fresh noise none is where the first noise leads."""
    sampler = SamplerSettings(kind="renoise", steps=2)
    target = target_of(load_recipe("scm"), Problem("ring").teacher(), sampler)

    class Map(Exact):
        def sample(self, noise, steps=2, condition=None, seed=0):
            self.denoiser.evaluations += steps
            x = target.flow(noise)
            return target.flow(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))) if steps > 1 else x

    found = verdict.judge(target, Map(target), verdict.null_quantile(target), {2: ("none", 0.0)})
    assert not found["missed"] and found["agreement"]["correlation"] == pytest.approx(1)


def test_code_that_a_recipe_does_not_load_is_no_part_of_its_key():
    tree = SourceTree()
    files = tree.closure(modules_of(load_recipe("kd")))
    assert "fewstep/objectives/common/distances.py" in files and "fewstep/objectives/adversarial/loss.py" not in files
    training = tree.closure(["fewstep.training.api"])
    assert "fewstep/training/round_trainer.py" in training and not any(path.endswith("/loss.py") for path in training)
    assert code_digest("fewstep.objectives.regression.loss") != code_digest("fewstep.objectives.adversarial.loss")
    keys = {Cell("kd", Problem("ring")).key, Cell("kd", Problem("grid")).key, Cell("ect", Problem("ring")).key,
            Cell("kd", Problem("ring"), seed=1).key, Cell("kd", Problem("ring"), images=1).key}  # fmt: skip
    assert len(keys) == 5


def test_a_cell_is_made_once_recorded_and_tabled(tmp_path, quick, monkeypatch):
    cell = Cell("kd", Problem("ring"), images=16_000)
    record = cells.make(cell, tmp_path)
    assert record["missed"] == [] and record["agreement"]["correlation"] > 0.8, record
    assert record["modes"]["within"] == 8 and record["distance"] < record["solver"]["distance"] / 2
    assert json.loads(cell.path(tmp_path).read_text()) == record

    monkeypatch.setattr(cells, "make", None)  # a second call reads
    assert list(make_all([cell], tmp_path)) == [record]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/recipes.md").write_text("a\n" + "\n".join(conformance_table.MARKS) + "\nb\n")
    conformance_table.write_tables([cell, Cell("kd", Problem("grid"))], tmp_path, root=tmp_path)
    document = (tmp_path / "docs/conformance.md").read_text()
    assert "1 of 2 cells" in document and f"{record['distance']:.4f}" in document
    overview = (tmp_path / "docs/recipes.md").read_text()
    assert overview.startswith("a\n") and overview.endswith("b\n") and "| `kd` |" in overview
    assert "met" in conformance_table.line(record)


def test_figures_outlive_an_edit_that_changes_no_bit_of_a_short_run(tmp_path, quick, monkeypatch):
    cell = Cell("ect", Problem("ring"), images=4096)
    record = cells.make(cell, tmp_path)
    monkeypatch.setattr(Cell, "code", "edited")
    assert cell.figures(tmp_path) is None
    assert cell.retraced(tmp_path) == {**record, "code": "edited"} == cell.figures(tmp_path)
    monkeypatch.setattr(Cell, "code", "edited again")
    for module, name in ((consistency_loss, "pseudo_huber"), (verdict, "distance")):  # of training, of judging
        with monkeypatch.context() as edit:
            before = getattr(module, name)
            edit.setattr(module, name, lambda *given, before=before: 1.0001 * before(*given))
            assert cell.retraced(tmp_path) is None and cell.figures(tmp_path) is None
    assert cell.retraced(tmp_path) is not None


@pytest.mark.slow
def test_the_traces_of_two_states_of_the_code_are_compared(tmp_path, capsys):
    file = tmp_path / "traces.json"
    asked = ["kd", "--problems", "ring", "--traces", str(file)]
    said = []
    for code in (0, 0):
        assert main(asked) == code
        said += [capsys.readouterr().out.split()[-1]]
    assert said == ["new", "same"]
    found = read_checked(file, FORM)["traces"]
    write_checked(file, FORM, {"traces": dict.fromkeys(found, "of other weights")})
    assert main(asked) == 1 and capsys.readouterr().out.split()[-1] == "differs"
    file.write_text("{}")
    assert main(asked) == CorruptData.exit_code and "traces.json: damaged" in capsys.readouterr().err


def test_what_breaks_is_a_line_of_the_table(tmp_path, quick):
    path = tmp_path / "odd.yaml"
    path.write_text("optimiser: {lr: 1.0e+30, clip: 0, warmup: 0}\nrounds: [{terms: [{term: regression}]}]")
    record = cells.make(Cell(str(path), Problem("ring"), images=1000), tmp_path)
    assert "is nan" in record["missed"][0] and "failed" in conformance_table.short([record])
    assert "missed" in conformance_table.line(record)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_every_recipe_meets_its_bar_on_every_problem_or_is_listed():
    """Figures of present code are read from where `make conformance` put them; what is missing is made."""
    wanted = [Cell(recipe, Problem(kind, usual_process(recipe))) for recipe in recipe_names() for kind in SUITE]
    records = list(make_all(wanted, workers=os.cpu_count() or 1))
    assert surprises(records, known_misses()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "scm"])
def test_the_forward_derivative_meets_the_bar_too(name, tmp_path):
    """As published: the recipes take differences, for networks in which it drowns."""
    path = tmp_path / f"{name}-forward.yaml"
    path.write_text((RECIPES / f"{name}.yaml").read_text().replace("difference: 0.1", "difference: 0"))
    assert [r["missed"] for r in make_all([Cell(str(path), Problem(kind)) for kind in SUITE], tmp_path, 2)] == [[]] * 3


def test_a_miss_that_is_not_listed_and_a_listed_one_that_is_met_are_surprises():
    records = [{"recipe": recipe, "problem": "ring", "missed": missed}
               for recipe, missed in (("kd", []), ("cd", ["far"]), ("ect", ["far"]), ("add", []))]  # fmt: skip
    found = surprises(records, {("ect", "ring"): "why", ("add", "ring"): "why"})
    assert len(found) == 2 and "cd on ring missed: far" in found[0] and "add on ring is listed" in found[1]


def test_known_misses_are_of_the_suite_and_say_what_was_found(tmp_path):
    assert {problem for _, problem in known_misses()} <= {*SUITE, DIGITS}
    path = tmp_path / "misses.yaml"
    for text, message in (("kdd: {ring: x}", "did you mean 'kd'"), ("kd: {rin: x}", "did you mean 'ring'"),
                          ("kd: {ring: ''}", "kd on ring: say what was found")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            known_misses(path)


def test_what_was_found_of_a_known_miss_stands_beside_it():
    (recipe, problem), found = next(iter(known_misses().items()))
    cost = {"seconds": 1.0, "memory_mib": 1}
    missed = {"recipe": recipe, "problem": problem, "seed": 0, "target": "few-step", "missed": ["far"], "cost": cost}
    assert f"far. Found: {found}" in conformance_table.document([missed], 1)
    assert found not in conformance_table.document([{**missed, "missed": []}], 1)


def test_the_tilted_target_is_the_reweighted_mixture():
    """Of a recipe's linear reward, per unit of its divergence; a recipe without one has no such target."""
    teacher, recipe = Problem("pair", dimension=3).teacher(), load_recipe("diff-instruct-star")
    found = target_of(recipe, teacher, SamplerSettings()).mixture
    _, reward = recipe.rounds[-1].terms
    slope = reward.weight * torch.tensor(reward.reward.direction)
    assert torch.allclose(found.weights, teacher.tilted(slope).weights) and found.weights[0] != teacher.weights[0]
    with pytest.raises(SettingsError, match="no linear reward"):
        target_of(load_recipe("sid").model_copy(update={"target": "tilted"}), teacher, SamplerSettings())


@pytest.mark.parametrize("kind", SUITE)
@pytest.mark.parametrize("name", ["lcm", "sana-sprint", "lcm-lora", "diff-instruct-star"])
def test_a_student_that_ignores_what_the_recipe_is_about_misses(name, kind, quick):
    """However wide the bar: exact conditional samples without guidance, exact ones without the reward."""
    target = target_of(load_recipe(name), Problem(kind).teacher(), SamplerSettings())
    solvers = {count: ("none", float("inf")) for count in (1, 2)}
    assert not verdict.judge(target, Exact(target), 0.0, solvers)["missed"]
    blind = Exact(target, lambda x: target.ignored(len(x), 78))
    assert f"without the {target.about}" in verdict.judge(target, blind, 0.0, solvers)["missed"][0]


def test_a_flow_map_without_fresh_noise_is_compared_by_its_own_steps(quick):
    """pcm's two steps together are the map; its first alone ends on the way."""
    recipe = load_recipe("pcm")
    target = target_of(recipe, Problem("ring").teacher(), SamplerSettings(steps=2))

    class Phased(Exact):
        def sample(self, noise, steps=2, condition=None, seed=0):
            self.denoiser.evaluations += steps
            return target.flow(noise) if steps == 2 else torch.zeros_like(noise)

    found = verdict.judge(target, Phased(target), 1.0, {2: ("none", 0.0)})
    assert recipe.flow_map and found["agreement"]["correlation"] == pytest.approx(1)
