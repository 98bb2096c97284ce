"""Solvers that are told to be the same make the same samples of any network, and others do not."""

from itertools import combinations

import pytest
import torch

from fewstep.diffusion.equal_solvers import equal
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.diffusion.sampling import sample
from fewstep.diffusion.solvers import is_stochastic, solver_names, steps_for
from fewstep.teachers import GaussianMixture
from tests.fewstep.training.small import teacher

SOLVERS = [name for name in solver_names() if not is_stochastic(name)]


def drawn(denoiser, evaluations: int) -> dict[str, tuple[int, torch.Tensor]]:
    """(steps, samples) by solver."""
    noise = torch.randn(16, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1))
    condition = torch.arange(16) % denoiser.num_classes
    steps = {solver: steps_for(solver, evaluations) for solver in SOLVERS}
    return {solver: (count, sample(denoiser, noise, solver=solver, steps=count, condition=condition, guidance=2.0).x)
            for solver, count in steps.items() if count is not None}


@pytest.mark.parametrize("evaluations", [1, 2, 4, 5])
@pytest.mark.parametrize("process", [VariancePreserving.cosine(), Flow(), EDM()], ids=["vp", "flow", "edm"])
def test_the_samples_are_equal_where_the_solvers_are_and_nowhere_else(process, evaluations):
    mixture = GaussianMixture([[2.0, -1.0], [-1.5, 0.5], [0.3, 1.7]], [0.3, 0.5, 0.2], process=process)
    made = drawn(mixture, evaluations)
    for (one, (steps, mine)), (other, (others, theirs)) in combinations(made.items(), 2):
        apart = float((mine - theirs).abs().max())
        if steps == others and equal(one, other, steps):
            assert apart < 1e-4, (one, other, apart)
        else:
            assert apart > 1e-3, (one, other, apart)


def test_the_samples_of_a_network_are_equal_too():
    made = drawn(teacher(), 2)
    alike = [solver for solver, (steps, _) in made.items() if equal("ddim", solver, steps)]
    assert {"ddim", "dpmsolver++", "unipc", "euler"} <= set(alike)
    for solver in alike:
        torch.testing.assert_close(made[solver][1], made["ddim"][1], rtol=1e-4, atol=1e-4)


def test_what_draws_noise_is_equal_to_itself_alone():
    assert equal("ddpm", "ddpm", 1) and not equal("ddpm", "ddim", 1) and not equal("ddim", "ddpm", 1)
