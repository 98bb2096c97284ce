"""Rounds that record checkpoints and walk back along them, and rounds that end with a mean of several students."""

import torch

from fewstep.recipes import parse_recipe
from fewstep.training.roles.teacher_schedule import teacher_at, way_back
from tests.fewstep.training.small import BATCH, finish, run, teacher, tiny, trainers_of


def test_the_way_back_ends_at_the_teacher_and_stays_there():
    path = way_back(["first", "second", "third"], "teacher")
    assert path == ["second", "first", "teacher"]
    assert [teacher_at(path, k / 8, 0.5) for k in range(8)] == ["second"] * 2 + ["first"] * 2 + ["teacher"] * 4
    assert teacher_at(["teacher"], 0.3, 0.5) == "teacher"


def test_degraded_teachers_lead_from_the_students_samples_to_the_teacher(tmp_path):
    job = run(tiny("disback"), tmp_path, images=60 * BATCH)
    trainers = trainers_of(job)
    finish(job)
    before, after = trainers
    recorded = before.recorded()
    assert len(recorded) == 5 and len(after.path) == 5 and after.path[-1] is after.state.networks["teacher"]

    def distance(one, other):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)

    far = [distance(network, job.teacher) for network in after.path]
    assert far == sorted(far, reverse=True) and far[-1] == 0 and far[0] < distance(recorded[-1], job.teacher)
    assert distance(recorded[-1], before.state.networks["fake_score"]) == 0
    start = teacher().state_dict()  # the student rested meanwhile
    assert all(torch.equal(value, start[name]) for name, value in job.student_after(0).denoiser.state_dict().items())


def test_a_round_may_end_with_the_mean_of_several_students(tmp_path):
    def recipe(shares):
        rounds = [{"terms": [{"term": "regression"}]}, {"terms": [{"term": "regression"}], "start": "teacher"}]
        if shares:
            rounds.append({"start": "teacher", "terms": [{"term": "regression"}], "merge": shares})
        return parse_recipe({"name": "x", "training": {"batch": BATCH}, "rounds": rounds}, "x")

    shares = [{"round": 1, "weight": 0.5}, {"round": 2, "weight": 0.25}]
    job = run(recipe(shares), tmp_path, images=12 * BATCH)
    trainers = trainers_of(job)
    merged = finish(job)
    parts = [job.student_after(k).denoiser.state_dict() for k in (0, 1)]
    third = {name: value.clone() for name, value in trainers[2].state.networks["student"].state_dict().items()}
    for name, value in merged.items():
        assert torch.allclose(value, 0.5 * parts[0][name] + 0.25 * parts[1][name] + 0.25 * third[name], atol=1e-6)
    assert any(not torch.equal(third[name], merged[name]) for name in merged)
    again = finish(run(recipe(shares), tmp_path, images=12 * BATCH))
    assert all(torch.equal(value, again[name]) for name, value in merged.items())
