"""The typed settings of every term, one file per term; the mathematics stands in fewstep/objectives. Torch-free.

A new term: its settings here (they join `AnyTerm`), its file of the same name in fewstep/objectives.
"""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from fewstep.objectives.adversarial.settings import Adversarial, GradientPenalty, HeadPool
from fewstep.objectives.bootstrap.settings import Bootstrap
from fewstep.objectives.common.solver_step_settings import Hop
from fewstep.objectives.consistency.settings import Consistency
from fewstep.objectives.continuous_consistency.settings import ContinuousConsistency
from fewstep.objectives.denoising.settings import Denoising
from fewstep.objectives.distribution_matching.settings import DistributionMatching
from fewstep.objectives.features.settings import Features
from fewstep.objectives.flow_matching.settings import FlowMatching
from fewstep.objectives.mean_velocity.settings import MeanVelocity
from fewstep.objectives.mmd.settings import MaximumMeanDiscrepancy
from fewstep.objectives.output_matching.settings import OutputMatching
from fewstep.objectives.policy_imitation.settings import PolicyImitation
from fewstep.objectives.regression.settings import Regression
from fewstep.objectives.reward.settings import Reward
from fewstep.objectives.self_adversarial.settings import SelfAdversarial
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.config import unknown

__all__ = [
    "Adversarial",
    "AnyTerm",
    "Bootstrap",
    "Consistency",
    "ContinuousConsistency",
    "Denoising",
    "DistributionMatching",
    "Features",
    "FlowMatching",
    "GradientPenalty",
    "HeadPool",
    "Hop",
    "MaximumMeanDiscrepancy",
    "MeanVelocity",
    "Needs",
    "OutputMatching",
    "PolicyImitation",
    "Regression",
    "Reward",
    "SelfAdversarial",
    "TermSettings",
]

_Any = (
    Adversarial
    | Bootstrap
    | Consistency
    | ContinuousConsistency
    | Denoising
    | DistributionMatching
    | Features
    | FlowMatching
    | MaximumMeanDiscrepancy
    | MeanVelocity
    | OutputMatching
    | PolicyImitation
    | Regression
    | Reward
    | SelfAdversarial
)
_NAMES = tuple(get_args(kind.model_fields["term"].annotation)[0] for kind in get_args(_Any))


def _known(data: Any) -> Any:
    name = data.get("term") if isinstance(data, dict) else None
    if isinstance(name, str) and name not in _NAMES:
        raise ValueError(unknown("term", name, _NAMES))
    return data


AnyTerm = Annotated[_Any, Field(discriminator="term"), BeforeValidator(_known)]
