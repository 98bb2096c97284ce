"""Training: `distill` in one call, and the parts that stages use. Importing this package alone imports no torch."""

from typing import TYPE_CHECKING

from fewstep.util.lazy_names import lazy_names

if TYPE_CHECKING:
    from fewstep.training.api import distill
    from fewstep.training.distillation import Distillation
    from fewstep.training.round_trainer import RoundTrainer
    from fewstep.training.run_options import RunOptions
    from fewstep.training.step.batches import Sources, TensorData

_HOMES = {
    "Distillation": "fewstep.training.distillation",
    "RoundTrainer": "fewstep.training.round_trainer",
    "RunOptions": "fewstep.training.run_options",
    "Sources": "fewstep.training.step.batches",
    "TensorData": "fewstep.training.step.batches",
    "distill": "fewstep.training.api",
}
__all__ = ["Distillation", "RoundTrainer", "RunOptions", "Sources", "TensorData", "distill"]
__getattr__ = lazy_names(__name__, _HOMES)
