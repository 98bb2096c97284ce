"""Several students that share the classes: each is trained on its own and sampled by it, in one exported model."""

import pytest
import torch
from diffusers import DiffusionPipeline

from fewstep.recipes import parse_recipe
from fewstep.students.export import export_student, load_student
from fewstep.teachers import GaussianMixture
from fewstep.training import TensorData
from fewstep.training.roles.multi_student import Sifted, join, route
from fewstep.training.step.batches import ExactData
from fewstep.util.errors import SettingsError
from tests.fewstep.training.small import BATCH, Pairs, finish, run, teacher, trainers_of

RECIPE = {
    "name": "two",
    "students": 2,
    "student": {"sampler": "renoise", "steps": 2},
    "training": {"batch": BATCH},
    "rounds": [{"student": k, "terms": [{"term": "flow_matching", "source": "data"}]} for k in (1, 2)],
}


def test_classes_are_shared_in_equal_runs_and_the_null_label_goes_with_the_first():
    assert route(teacher(), 2) == [0, 0, 1, 0]
    assert route(GaussianMixture(torch.zeros(8, 2), 1.0), 4) == [0, 0, 1, 1, 2, 2, 3, 3, 0]
    with pytest.raises(SettingsError, match="4 students cannot share 3 classes"):
        route(teacher(), 4)


def test_each_student_sees_its_own_labels_only_in_the_sources_order():
    source = TensorData(torch.arange(30.0)[:, None], torch.arange(30) % 3)
    x, y = Sifted(source, [1], 8).batch(0, 0, 10)
    wide, labels = source.batch(0, 0, 80)
    assert (y == 1).all() and torch.equal(x, wide[labels == 1][:10])
    found = Sifted(Pairs(), [0, 2], 8).batch(1, 16, 8)
    assert len(found["noise"]) == len(found["x"]) == 8 and set(found["condition"].tolist()) <= {0, 2}
    few = Sifted(TensorData(torch.arange(40.0)[:, None], (torch.arange(40) == 3).long()), [1], 2)
    assert any((few.batch(0, k, 20)[0] == 3).all() for k in (0, 20, 40))  # repeated where they are too few
    with pytest.raises(SettingsError, match="none of 16 samples has one of the labels"):
        Sifted(source, [7], 2).batch(0, 0, 8)
    with pytest.raises(SettingsError, match="need labels"):
        Sifted(TensorData(torch.zeros(4, 1)), [0], 2).batch(0, 0, 2)
    mixture = GaussianMixture(torch.eye(4), 0.1)
    assert set(Sifted(ExactData(mixture), [2, 3], 8).batch(0, 0, 64)[1].tolist()) == {2, 3}


def test_labels_drawn_without_data_stay_within_the_students_part(tmp_path):
    rounds = [{"student": k, "turns": {"fake_score": 1, "student": 1}, "terms": [{"term": "distribution_matching"}]}
              for k in (1, 2)]  # fmt: skip
    job = run(parse_recipe({**RECIPE, "rounds": rounds}, "x"), tmp_path, images=8 * BATCH)
    trainers = trainers_of(job)
    finish(job)
    for trainer, own in zip(trainers, ({0, 1}, {2}), strict=True):
        assert set(trainer.sources.labels) - {3} == own


def test_the_exported_model_samples_each_class_by_its_student(tmp_path):
    job = run(parse_recipe(RECIPE, "two"), tmp_path / "run", images=16 * BATCH)
    finish(job)
    one, other, both = job.student_after(0), job.student_after(1), job.student()
    noise, labels = torch.randn(8, 1, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0, 3, 2])
    own = [student.sample(noise, condition=labels, seed=4) for student in (one, other)]
    mine = (labels == 2)[:, None, None, None]
    wanted = torch.where(mine, own[1], own[0])
    assert not torch.allclose(own[0], own[1], atol=1e-3)
    assert torch.allclose(both.sample(noise, condition=labels, seed=4), wanted, atol=1e-5)

    export_student(both, tmp_path / "model")
    loaded = load_student(tmp_path / "model")
    assert torch.allclose(loaded.sample(noise, condition=labels, seed=4), wanted, atol=1e-5)
    assert torch.allclose(loaded.sample(noise), both.sample(noise), atol=1e-6)  # without a label: the first student
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(batch_size=8, class_labels=labels, noise=noise, seed=4, output_type="raw").images
    assert torch.allclose(drawn, wanted, atol=1e-4)
    export_student(loaded, tmp_path / "again")
    names = sorted(path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*") if path.is_file())
    assert all((tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_students_of_vectors_join_too():
    from fewstep.students.student import Student
    from fewstep.training.roles.fresh_networks import fresh_network

    mixture = GaussianMixture(torch.eye(4), 0.1)
    parts = [Student(fresh_network(mixture, seed)) for seed in (0, 1)]
    both, noise, labels = join(parts), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 4, 2])
    own = [part.sample(noise, condition=labels) for part in parts]
    chosen = torch.tensor([0, 0, 1, 1, 0, 1])
    assert torch.allclose(both.sample(noise, condition=labels), torch.stack(own)[chosen, torch.arange(6)], atol=1e-6)
    assert both.sample(noise[:0]).shape == both.sample(noise[:0], condition=labels[:0]).shape == (0, 4)
    with pytest.raises(SettingsError, match="0 … 3 or 4 for no class; got label 5"):
        both.sample(noise, condition=labels + 1)
