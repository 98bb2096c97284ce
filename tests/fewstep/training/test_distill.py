"""distill(): from a closed-form teacher to a student that beats every training-free solver at equal evaluations."""

import math

import pytest
import torch

from fewstep.diffusion.processes import EDM, Flow
from fewstep.diffusion.sampling import sample
from fewstep.metrics.distances.sliced import sliced_wasserstein
from fewstep.recipes import load_recipe
from fewstep.teachers import GaussianMixture
from fewstep.training import distill
from fewstep.training.roles import fit_network
from fewstep.util.errors import SettingsError

ANGLES = torch.arange(8) * 2 * math.pi / 8
COUNT = 4000


def ring(process=None) -> GaussianMixture:
    """Eight narrow Gaussians on the unit circle."""
    return GaussianMixture(torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.1, process=process)


def judge(teacher: GaussianMixture, student) -> tuple[float, float, float, torch.Tensor]:
    """Distance of the student's samples, of the best solver's at one evaluation, share of hit classes, mode shares."""
    source = torch.Generator().manual_seed(100)
    exact, noise = teacher.exact_samples(COUNT, source), torch.randn(COUNT, 2, generator=source)
    free = min(sliced_wasserstein(sample(teacher, noise, solver=s, steps=1).x, exact) for s in ("ddim", "dpmsolver++"))
    drawn = student.sample(noise)
    classes = torch.arange(COUNT) % 8
    means = teacher.means.float()
    hit = (torch.cdist(student.sample(noise, condition=classes), means).argmin(1) == classes).float().mean()
    modes = torch.bincount(torch.cdist(drawn, means).argmin(1), minlength=8) / COUNT
    return sliced_wasserstein(drawn, exact), free, float(hit), modes


@pytest.mark.parametrize(
    ("name", "images", "part"),
    [
        ("kd", 20_000, 0.25),
        pytest.param("reflow", 120_000, 0.2, marks=pytest.mark.slow),
        pytest.param("ect", 120_000, 0.4, marks=pytest.mark.slow),
        pytest.param("dmd2", 120_000, 0.25, marks=pytest.mark.slow),
    ],
)
def test_a_recipe_beats_the_training_free_solver_at_one_evaluation(name, images, part):
    teacher = ring()
    distance, free, hit, modes = judge(teacher, distill(name, teacher, images=images))
    assert distance < part * free, (distance, free)
    if name != "ect":
        assert hit > 0.95 and modes.min() > 1 / 16 and modes.max() < 1 / 4, (hit, modes)


@pytest.mark.slow
@pytest.mark.parametrize("process", [EDM(), Flow()], ids=["edm", "flow"])
@pytest.mark.parametrize(("name", "part"), [("kd", 0.25), ("reflow", 0.25), ("ect", 0.4), ("dmd2", 0.3)])
def test_other_processes(name, part, process):
    teacher = ring(process)
    distance, free, _, _ = judge(teacher, distill(name, teacher, images=100_000))
    assert distance < part * free, (distance, free)


def test_a_run_in_a_workdir_is_continued_and_equals_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_network, "STEPS", 20)
    monkeypatch.setattr(fit_network.fit, "__defaults__", ("cpu", 20))
    teacher, noise = ring(), torch.randn(64, 2)
    found = [distill("kd", teacher, images=1000, seed=3, device="cpu", workdir=w).sample(noise)
             for w in (tmp_path, tmp_path, None)]  # fmt: skip
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], distill("kd", teacher, images=1000, seed=4, device="cpu").sample(noise))
    x = torch.randn(100, 2)
    given = distill(load_recipe("ect"), teacher, data=x, images=1000, device="cpu").sample(noise)
    labelled = distill("ect", teacher, data=(x, torch.arange(100) % 8), images=1000, device="cpu").sample(noise)
    assert torch.isfinite(given).all() and not torch.equal(given, labelled)


def test_what_cannot_work_is_refused_before_any_work():
    from tests.fewstep.training.small import teacher

    with pytest.raises(SettingsError, match="did you mean 'kd'"):
        distill("kdd", ring())
    with pytest.raises(SettingsError, match="ect needs real data"):
        distill("ect", teacher())
    with pytest.raises(SettingsError, match="NaN"):
        distill("ect", teacher(), data=torch.full((4, 1, 8, 8), math.nan))
