"""The summands that objectives are made of. Their settings stand, torch-free, in fewstep/objectives."""

from fewstep.objectives.adversarial.loss import Adversarial
from fewstep.objectives.bootstrap.loss import Bootstrap
from fewstep.objectives.consistency.loss import Consistency
from fewstep.objectives.continuous_consistency.loss import ContinuousConsistency
from fewstep.objectives.denoising.loss import Denoising
from fewstep.objectives.distribution_matching.loss import DistributionMatching
from fewstep.objectives.features.loss import Features
from fewstep.objectives.flow_matching.loss import FlowMatching
from fewstep.objectives.mean_velocity.loss import MeanVelocity
from fewstep.objectives.mmd.loss import Mmd
from fewstep.objectives.output_matching.loss import OutputMatching
from fewstep.objectives.policy_imitation.loss import PolicyImitation
from fewstep.objectives.regression.loss import Regression
from fewstep.objectives.reward.loss import Reward
from fewstep.objectives.self_adversarial.loss import SelfAdversarial
from fewstep.objectives.term import Term
from fewstep.objectives.term_union import TermSettings

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
