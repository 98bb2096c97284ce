"""One round's loop: accumulation, non-finite figures, turns, frozen networks."""

import pytest
import torch

from fewstep.objectives.regression.loss import Regression
from fewstep.recipes import parse_recipe
from fewstep.teachers import GaussianMixture
from fewstep.training import RoundTrainer, RunOptions, Sources
from fewstep.training.loss_meter import Figures
from fewstep.training.roles.fit_network import fit
from fewstep.util.errors import NonFinite, SettingsError
from tests.fewstep.training.small import BATCH, RECIPES, Pairs, data, finish, run, teacher, tiny


@pytest.mark.parametrize("name", RECIPES)
def test_one_and_two_parts_of_a_batch_give_the_same_gradients(name):
    found = []
    for parts in (1, 2):
        trainer = trainer_of(name, accumulate=parts, precision="float32")
        for k in range(len(trainer.cycle)):
            take_turn(trainer, k, update=False)
        found.append({(r, n): p.grad.clone() for r, o in trainer.state.optimisers.items()
                      for n, p in zip(o.names, o.parameters, strict=True) if p.grad is not None})  # fmt: skip
    assert found[0].keys() == found[1].keys() and len(found[0]) > 40
    size = max(float(value.abs().max()) for value in found[0].values())
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], rtol=1e-3, atol=1e-5 * size), key


def test_terms_that_read_data_and_pairs_in_one_round_have_the_labels_of_what_they_read():
    """The gradient of both is the sum of each alone, where there is only one source to take labels from."""
    found = []
    terms = [{"term": "regression"}, {"term": "denoising"}, {"term": "distribution_matching"}]
    for used in ([0, 1, 2], [0], [1, 2]):
        turns = {"student": 1, "fake_score": 1} if 2 in used else {"student": 1}
        recipe = {"name": "x", "training": {"batch": BATCH, "precision": "float32"}}
        recipe["rounds"] = [{"terms": [terms[k] for k in used], "turns": turns}]
        trainer = trainer_of(parse_recipe(recipe, "x"))
        take_turn(trainer, 0, update=False)
        grads = {n: p.grad for n, p in trainer.state.networks["student"].named_parameters()}
        found.append({n: grad.clone() for n, grad in grads.items() if grad is not None})
    both, pairs, data = found
    assert both.keys() == pairs.keys() == data.keys() and len(both) > 20
    size = max(float(value.abs().max()) for value in both.values())
    for name, value in both.items():
        assert torch.allclose(value, pairs[name] + data[name], rtol=1e-3, atol=1e-5 * size), name


def trainer_of(recipe, **overrides) -> RoundTrainer:
    """The first round of a recipe with networks that all differ."""
    recipe = tiny(recipe, **overrides) if isinstance(recipe, str) else recipe
    networks = {"student": teacher(1), "teacher": teacher(), "fake_score": teacher(2), "teacher_network": teacher()}
    needs = recipe.rounds[0].needs
    sources = Sources(data=data() if needs.data else None, pairs=Pairs() if needs.pairs else None)
    finest = torch.linspace(1, 0, recipe.finest + 1)[:-1].tolist()
    grid = finest[:: recipe.finest // recipe.rounds[0].times_steps]
    return RoundTrainer(recipe, 0, networks, grid, sources, RunOptions(images=12 * BATCH, seed=3), finest=finest)


def take_turn(trainer: RoundTrainer, k: int, update: bool = True, figures: Figures | None = None) -> None:
    role = trainer.cycle[k]
    trainer.state.train_only(role)
    if not update:
        trainer.state.optimisers[role].step = lambda progress, norm: None
    trainer._step(k, role, figures or _Ignore())


def _overrides(**kwargs):
    from fewstep.recipes import Overrides

    return Overrides(**kwargs)


class _Ignore:
    def add(self, *_):
        pass

    def require_finite(self, *_):
        pass


def test_a_nan_stops_the_run_and_names_step_term_and_role(tmp_path):
    with pytest.raises(NonFinite, match=r"recipe kd, round 1, step 9: regression of role 'student' is nan") as caught:
        finish(run(tiny("kd"), tmp_path, pairs=Pairs(spoil=9 * BATCH)))
    assert (caught.value.step, caught.value.term, caught.value.role) == (9, "regression", "student")
    assert list(tmp_path.rglob("step-*.json"))  # what was done before is kept


def test_an_exploding_gradient_stops_the_run(tmp_path):
    own = teacher()
    with torch.no_grad():
        next(own.network.parameters()).mul_(1e38)
    with pytest.raises(NonFinite, match="of role 'fake_score'"):
        finish(run(tiny("dmd2"), tmp_path, teacher=own))


def steep(term) -> None:
    """Gives the term's loss, which stays as it is, a gradient of NaN."""
    loss = term.loss

    def spoilt(step):
        value, figures = loss(step)
        return value + (0 * value).sqrt(), figures

    term.loss = spoilt


@pytest.mark.parametrize(("odd", "named"), [([1], "adversarial"), ([0], "distribution_matching"),
                                            ([0, 1], "distribution_matching [+] adversarial")])  # fmt: skip
@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_that_is_not_finite_is_laid_at_its_term_and_nothing_of_the_step_is_kept(odd, named, parts):
    trainer = trainer_of("dmd2", accumulate=parts, precision="float32")
    for k in odd:
        steep(trainer.terms[k])
    start = {name: value.clone() for name, value in trainer.state.weights().items()}
    with pytest.raises(NonFinite, match=f"dmd2, round 1, step 5: the gradient of {named} of role 'student' is nan"):
        take_turn(trainer, 5, figures=Figures(trainer.where))
    assert all(torch.equal(value, start[name]) for name, value in trainer.state.weights().items())
    assert not trainer.state.optimisers["student"].state()
    assert all(p.grad is None for p in trainer.state.optimisers["student"].parameters)


def test_where_a_gradient_cannot_be_computed_anew_all_terms_of_the_turn_are_named():
    trainer = trainer_of("dmd2")
    elsewhere = torch.tensor(float("nan"), device="meta")
    assert trainer._behind(elsewhere, 5, "student") == "distribution_matching + adversarial"
    assert trainer._behind(torch.tensor(float("inf")), 5, "student") == "distribution_matching + adversarial"


def test_a_step_with_a_bad_gradient_is_in_no_checkpoint(tmp_path, monkeypatch):
    whole = finish(run(tiny("kd"), tmp_path / "whole", 12 * BATCH))
    loss = Regression.loss

    def spoilt(term, step):
        value, figures = loss(term, step)
        return (value + (0 * value).sqrt() if step.progress == 9 / 12 else value), figures

    monkeypatch.setattr(Regression, "loss", spoilt)
    with pytest.raises(NonFinite, match="step 9: the gradient of regression of role 'student' is nan") as caught:
        finish(run(tiny("kd"), tmp_path / "stopped", 12 * BATCH))
    assert (caught.value.step, caught.value.term, caught.value.role) == (9, "regression", "student")
    monkeypatch.undo()
    again = finish(run(tiny("kd"), tmp_path / "stopped", 12 * BATCH))
    assert again.keys() == whole.keys() and all(torch.equal(value, whole[name]) for name, value in again.items())


def test_the_fit_of_a_closed_form_teacher_stops_where_it_is_not_finite():
    far = GaussianMixture(torch.eye(2) * 1e25, 0.1)
    with pytest.raises(NonFinite, match="fitted to the closed-form teacher, step 0: the fit .* is (inf|nan)"):
        fit(far, 0, steps=3)


def test_turns_train_their_own_role_only_and_the_teacher_never_changes():
    trainer = trainer_of("dmd2")
    networks = trainer.state.networks
    assert trainer.cycle == ["fake_score"] * 5 + ["student"]
    # the network and the adversarial head share one turn
    assert len(trainer.state.optimisers["fake_score"].modules) == 2

    def weights():
        return {role: {n: v.clone() for n, v in net.state_dict().items()} for role, net in networks.items()}

    def moved(role, before, now):
        return any(not torch.equal(v, before[role][n]) for n, v in now[role].items())

    start = weights()
    take_turn(trainer, 0)
    after_fake = weights()
    assert [moved(role, start, after_fake) for role in ("fake_score", "student", "teacher")] == [True, False, False]
    take_turn(trainer, 5)
    after_student = weights()
    assert [moved(r, after_fake, after_student) for r in ("fake_score", "student", "teacher")] == [False, True, False]
    assert all(p.grad is None for role in ("fake_score", "teacher") for p in networks[role].parameters())


def test_a_trainer_that_has_run_can_run_again():
    trainer = trainer_of("kd", lr=1e-3)
    before = {name: value.clone() for name, value in trainer.run().state_dict().items()}
    after = trainer.run().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_terms_share_network_calls_within_a_step():
    trainer, counts = trainer_of("dmd2"), {}
    for role, k in (("fake_score", 0), ("student", 5)):
        before = {name: net.evaluations for name, net in trainer.state.networks.items()}
        take_turn(trainer, k)
        counts[role] = {name: net.evaluations - before[name] for name, net in trainer.state.networks.items()}
    assert counts["student"] == {"student": 1, "teacher": 1, "fake_score": 1, "teacher_network": 0}
    # at real samples the fake score's features alone are wanted, and the call ends with them
    assert counts["fake_score"] == {"student": 1, "teacher": 0, "fake_score": 1, "teacher_network": 0}


@pytest.mark.parametrize(("name", "through"), [
    ("kd", set()), ("cd", set()), ("lora-guidance", set()), ("vsd", set()), ("tdm", set()), ("pi-flow", set()),
    ("dmd2", {"fake_score"}), ("sid", {"teacher", "fake_score"}), ("ladd", {"teacher_network"}),
    ("mmd-ddm", set()), ("diff-instruct-star", {"teacher", "fake_score"}), ("sdxl-lightning", set()),
])  # fmt: skip
def test_frozen_networks_have_a_graph_only_where_a_term_differentiates_through_them(name, through):
    """In the student's turn: to the input of adversarial features (DMD2, LADD) and of the score identity (SiD)."""
    trainer, found = trainer_of(name), set()
    for role, denoiser in trainer.state.networks.items():
        if role != "student":
            denoiser.network.mid_block.register_forward_hook(
                lambda _m, _i, output, role=role: found.add(role) if output[0].requires_grad else None
            )
    take_turn(trainer, trainer.cycle.index("student"))
    assert found == through


def test_a_role_without_a_weighted_term_is_refused(tmp_path):
    recipe = parse_recipe({"name": "x", "rounds": [{"terms": [{"term": "regression", "weight": 0}]}]}, "x")
    with pytest.raises(SettingsError, match="no term with a weight trains the role 'student'"):
        finish(run(recipe.override(_overrides(batch=BATCH)), tmp_path))


def test_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    finish(run(tiny("dmd2"), tmp_path, images=6 * BATCH))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_changes_the_step_a_little_and_weights_stay_float32(precision, tmp_path):
    trainer = trainer_of("kd", precision=precision)
    assert trainer.precision == precision
    take_turn(trainer, 0)
    assert all(value.dtype == torch.float32 for value in trainer.state.networks["student"].parameters())
    plain = trainer_of("kd", precision="float32")
    take_turn(plain, 0)
    students = (own.state.networks["student"].parameters() for own in (trainer, plain))
    pairs = zip(*students, strict=True)
    apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert (apart == 0) == (precision == "float32") and apart < 1e-2
