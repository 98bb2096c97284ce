"""The summands that objectives are made of. Their settings stand, torch-free, in fewstep/recipes/terms."""

from fewstep.recipes.terms import TermSettings
from fewstep.terms.adversarial import Adversarial
from fewstep.terms.base import Term
from fewstep.terms.bootstrap import Bootstrap
from fewstep.terms.consistency import Consistency
from fewstep.terms.continuous_consistency import ContinuousConsistency
from fewstep.terms.denoising import Denoising
from fewstep.terms.distribution_matching import DistributionMatching
from fewstep.terms.features import Features
from fewstep.terms.flow_matching import FlowMatching
from fewstep.terms.mean_velocity import MeanVelocity
from fewstep.terms.mmd import Mmd
from fewstep.terms.output_matching import OutputMatching
from fewstep.terms.policy_imitation import PolicyImitation
from fewstep.terms.regression import Regression
from fewstep.terms.reward import Reward
from fewstep.terms.self_adversarial import SelfAdversarial

TERMS: dict[str, type[Term]] = {
    "adversarial": Adversarial,
    "bootstrap": Bootstrap,
    "consistency": Consistency,
    "continuous_consistency": ContinuousConsistency,
    "denoising": Denoising,
    "distribution_matching": DistributionMatching,
    "features": Features,
    "flow_matching": FlowMatching,
    "mean_velocity": MeanVelocity,
    "mmd": Mmd,
    "output_matching": OutputMatching,
    "policy_imitation": PolicyImitation,
    "regression": Regression,
    "reward": Reward,
    "self_adversarial": SelfAdversarial,
}

__all__ = ["TERMS", "Term", "build"]


def build(settings: TermSettings) -> Term:
    """The term of these settings."""
    return TERMS[settings.term](settings)
