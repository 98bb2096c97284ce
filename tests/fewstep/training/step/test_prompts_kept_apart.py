"""Prompts of the test split are drawn by no training and by no set of the teacher's outputs."""

import torch
from torch import nn

from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.training.step.batches import Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from fewstep.trajectories import TrajectorySettings, plan_set
from fewstep.trajectories.keyed_labels import sample_condition

TRAINED = torch.tensor([1, 4, 5])


def asked(trained: torch.Tensor | None) -> Denoiser:
    """A network that may be asked for six prompts; the seventh row stands for none."""
    table = TensorTable({"encoder_hidden_states": torch.zeros(7, 2, 3)}, torch.full((6,), 6), trained)
    return Denoiser(nn.Linear(2, 2), VariancePreserving.cosine(), "v_prediction", (2,)).take(table)


def drawn(trained: torch.Tensor | None, null_share: float = 0.0) -> set[int]:
    draws = Draws(0, 0, 0, 512, torch.device("cpu"))
    setup = StepSetup({"student": asked(trained)}, [1.0], Sources(null_share=null_share))
    return set(Step(setup, "student", draws).batch.condition.tolist())


def test_training_draws_the_prompts_that_are_for_it():
    assert drawn(None) == set(range(6))
    assert drawn(TRAINED) == {1, 4, 5}
    assert drawn(TRAINED, null_share=0.3) == {1, 4, 5, 6}


def test_a_set_asks_for_each_of_them_alike_often():
    settings = TrajectorySettings(count=12, steps=2, record_size=4, compile=False)
    plan = plan_set(asked(TRAINED), settings, seed=3, teacher_digest="t")
    rows = sample_condition(3, torch.arange(12), plan.num_classes, plan.fields["condition"]["source"], plan.among)
    assert rows.bincount(minlength=6).tolist() == [0, 4, 0, 0, 4, 4] and rows[:3].sort().values.tolist() == [1, 4, 5]
    other = plan_set(asked(TRAINED[:2]), settings, seed=3, teacher_digest="t")
    assert other.fields["condition"] != plan.fields["condition"]
