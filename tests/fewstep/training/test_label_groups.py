"""Teachers whose labels have several conditions: what students train on, and the guidance of each in one pass."""

import pytest
import torch

from fewstep.conformance.targets import Asked
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.recipes import parse_recipe
from fewstep.students.export import export_student, load_student
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import GaussianMixture, load_teacher, new_unet, save_teacher
from fewstep.training import distill
from fewstep.training.roles.fresh_networks import fresh_network
from fewstep.training.roles.multi_student import route
from fewstep.training.step.batches import ExactData, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from fewstep.util.errors import SettingsError

GROUPS = [(0, 1), (2, 3)]
MEANS = [[0.9, 0.3], [0.9, -0.3], [-0.9, 0.3], [-0.9, -0.3]]


def teacher() -> GaussianMixture:
    """Four components 0 … 3, 4 none, 5 and 6 the groups."""
    return GaussianMixture(MEANS, 0.2, groups=GROUPS)


def test_exact_samples_have_every_label_that_they_may_have():
    x, labels = ExactData(teacher()).batch(0, 0, 4096)
    assert (labels.bincount(minlength=7) > 400).all()
    right = x[:, 0] > 0  # far apart: the side tells the group
    assert (right == torch.isin(labels, torch.tensor([0, 1, 5])))[labels != 4].float().mean() > 0.999


def test_dropped_conditions_leave_the_group_as_often_as_nothing():
    one = teacher()
    networks, draws = {"student": fresh_network(one, 0)}, Draws(0, 0, 0, 8192, torch.device("cpu"))
    step = Step(StepSetup(networks, [1.0], Sources()), "student", draws)
    whole, left = step.batch.condition, step.batch.dropped_condition(0.5)
    assert set(whole.tolist()) == {0, 1, 2, 3}
    shares = [float((left == labels).float().mean()) for labels in (whole, one.with_conditions(whole, 1), 4)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_students_that_share_the_classes_take_groups_with_the_first_of_them():
    one = teacher()
    assert route(one, 2) == [0, 0, 1, 1, 0, 0, 1]
    for labels in ((0, 1, 4, 5), (2, 3, 6)):  # drawn where a round reads neither data nor pairs
        networks, draws = {"student": fresh_network(one, 0)}, Draws(0, 0, 0, 512, torch.device("cpu"))
        step = Step(StepSetup(networks, [1.0], Sources(None, None, 0.5, labels)), "student", draws)
        assert set(step.batch.condition.tolist()) == set(labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_labels_may_be_of_any_integer_type(dtype):
    one, labels = teacher(), torch.tensor([0, 3, 6], dtype=dtype)
    assert one.with_conditions(labels, torch.tensor([1, 0, 1])).tolist() == [5, 4, 6]
    assert one.labelled_samples(3, torch.Generator().manual_seed(0), labels)[1][:2].tolist() == [0, 3]


def test_a_student_that_is_told_one_scale_is_not_guided_by_several():
    told = StudentSettings(guidance_input={"low": 1, "high": 4, "sample": 2})
    student = make_student(fresh_network(teacher(), 0), told)
    setup = StepSetup({"student": student.denoiser}, [1.0], Sources())
    step = Step(setup, "student", Draws(0, 0, 0, 8, torch.device("cpu")))
    with pytest.raises(SettingsError, match="1.5, 3 is several scales, and the student is told one"):
        step.batch.guidance((1.5, 3.0))
    assert step.batch.guidance(2.0) is step.batch.scale


def test_one_pass_learns_what_three_make_of_two_scales():
    """Sample by sample, where the teacher goes by the same steps so guided; either scale alone leads elsewhere."""
    scales, source = (2.0, 4.0), teacher()
    recipe = parse_recipe(
        {"name": "multi-guidance", "student": {"steps": 8}, "optimiser": {"lr": 2.0e-3}, "target": "guidance",
         "rounds": [{"trajectories": {"guidance": scales},
                     "terms": [{"term": "output_matching", "guidance": scales, "source": "pairs"}]}]},
        "multi-guidance",
    )  # fmt: skip
    student = distill(recipe, source, images=24_000)
    noise, labels = torch.randn(512, 2, generator=torch.Generator().manual_seed(0)), torch.arange(512) % 4
    before = student.denoiser.evaluations
    drawn = student.sample(noise, condition=labels)
    assert student.denoiser.groups == tuple(GROUPS) and student.denoiser.evaluations - before == 8

    def error(guidance) -> float:
        stepping = Student(Asked(source, guidance), student.sampler)
        return float((drawn - stepping.sample(noise, condition=labels)).square().mean())

    assert error(scales) < 0.2 * min(error(2.0), error(4.0))


def test_a_teacher_with_groups_is_saved_and_loaded(tmp_path):
    network = new_unet(8, 1, 4, (8, 16), generator=torch.Generator().manual_seed(0), groups=2)
    made = Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 4, 4, groups=GROUPS).eval()
    save_teacher(made, tmp_path / "teacher")
    found = load_teacher(tmp_path / "teacher")
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 3, 6])
    assert found.groups == tuple(GROUPS)
    with torch.no_grad():
        assert torch.equal(found.x0(x, 0.5, labels, (2.0, 3.0)), made.x0(x, 0.5, labels, (2.0, 3.0)))
    student = make_student(found, StudentSettings(steps=2))
    export_student(student, tmp_path / "student")
    assert load_student(tmp_path / "student").denoiser.groups == tuple(GROUPS)
    path = tmp_path / "teacher" / "fewstep.json"
    path.write_text(path.read_text().replace('"groups"', '"groups": "odd", "other"'))
    with pytest.raises(SettingsError, match="incomplete .groups.; save the folder again"):
        load_teacher(tmp_path / "teacher")


def test_several_scales_are_a_teachers():
    with pytest.raises(SettingsError, match="several scales are a teacher's"):
        parse_recipe({"name": "odd", "rounds": [{"terms": [{"term": "mean_velocity", "guidance": [1.0, 2.0]}]}]}, "odd")
