"""The typed settings of every term, one file per term; the mathematics stands in fewstep/terms. Torch-free.

A new term: its settings here (they join `AnyTerm`), its file of the same name in fewstep/terms.
"""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from fewstep.configuration import unknown
from fewstep.recipes.terms.adversarial import Adversarial, GradientPenalty, HeadPool
from fewstep.recipes.terms.base import Needs, TermSettings
from fewstep.recipes.terms.bootstrap import Bootstrap
from fewstep.recipes.terms.consistency import Consistency
from fewstep.recipes.terms.continuous_consistency import ContinuousConsistency
from fewstep.recipes.terms.denoising import Denoising
from fewstep.recipes.terms.distribution_matching import DistributionMatching
from fewstep.recipes.terms.features import Features
from fewstep.recipes.terms.flow_matching import FlowMatching
from fewstep.recipes.terms.hops import Hop
from fewstep.recipes.terms.mean_velocity import MeanVelocity
from fewstep.recipes.terms.mmd import MaximumMeanDiscrepancy
from fewstep.recipes.terms.output_matching import OutputMatching
from fewstep.recipes.terms.policy_imitation import PolicyImitation
from fewstep.recipes.terms.regression import Regression
from fewstep.recipes.terms.reward import Reward
from fewstep.recipes.terms.self_adversarial import SelfAdversarial

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
