"""At which costs students and baselines are measured where params.yaml does not say."""

import pytest

from tasks.config.schema import Settings
from tasks.evaluation.baseline_plan import plan, teacher_baseline
from tasks.stages.baselines import BaselinesStage
from tasks.stages.evaluate import EvaluateStage


def settings(**sections) -> Settings:
    return Settings(name="x", data={"source": "digits"}, **sections)


@pytest.mark.parametrize(("distill", "evaluate", "steps"), [
    ({"recipe": "kd"}, {}, (1,)), ({"recipe": "tdm"}, {}, (2,)), ({"recipe": "lcm", "steps": 4}, {}, (4,)),
    ({"recipe": "kd"}, {"steps": [1, 4]}, (1, 4)),
])
def test_a_student_is_measured_in_the_steps_that_its_recipe_trains_it_for(distill, evaluate, steps):
    assert EvaluateStage().resolve(settings(distill=distill, evaluate=evaluate)).steps == steps


def test_sixteen_evaluations_are_asked_of_the_teacher_s_own_solver_alone():
    baselines = plan(BaselinesStage().resolve(settings()))
    counts = {solver: [one.evaluations for one in baselines if one.solver == solver]
              for solver in ("ddim", "heun", "dpmsolver++")}
    assert counts == {"ddim": [1, 2, 4, 8], "heun": [1, 3, 7], "dpmsolver++": [1, 2, 4, 8, 16]}
    assert teacher_baseline(baselines).evaluations == 16


def test_counts_that_are_set_are_asked_of_every_solver():
    resolved = BaselinesStage().resolve(settings(evaluate={"baseline_steps": [2, 32]}))
    assert {(one.solver, one.evaluations) for one in plan(resolved)} >= {("ddim", 32), ("dpmsolver++", 32)}
    assert "teacher_steps" not in resolved.model_dump(mode="json")      # keys of before stay


def test_solvers_that_are_the_same_are_drawn_once():
    chosen = ["ddim", "heun", "unipc", "dpmsolver++", "ddpm"]
    baselines = plan(BaselinesStage().resolve(settings(evaluate={"solvers": chosen})))
    drawn = {one.name: one.drawn_as for one in baselines}
    assert {name for name, other in drawn.items() if other == "dpmsolver++-1"} == {
        "dpmsolver++-1", "ddim-1", "heun-1", "unipc-1"}  # fmt: skip
    assert {name for name, other in drawn.items() if other == "dpmsolver++-2"} == {
        "dpmsolver++-2", "ddim-2", "unipc-2"}  # fmt: skip
    assert all(drawn[name] == name for name in drawn if name.endswith(("-3", "-4", "-7", "-8")) or "ddpm-" in name)
