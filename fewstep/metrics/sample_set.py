"""One model's samples with what was observed in them, as one safetensors file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fewstep.data.medium import to_stored
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.observed import Observed
from fewstep.util.errors import CorruptData


@dataclass(frozen=True)
class Sampled:
    """Samples of one model.

    Attributes:
        images: (n, …) as they are stored, row i from the noise and class of sample i.
        seen: what was observed in them; None if some are not finite.
        finite: share of samples without NaN or infinity.
    """

    images: Tensor
    seen: Observed | None
    finite: float


def collect(
    examination: Examination,
    draw: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    on_batch: Callable[[int], None] | None = None,
) -> Sampled:
    """Draws the samples of the examination's plan from a model and observes them.

    Args:
        draw: (noise (N, …), classes (N,) or None, indices (N,)) → states (N, …) that the examination decodes.
        on_batch: called with the number of samples of each batch when it is done.
    """
    images, finite = [], 0
    plan = examination.plan
    for indices in plan.batches():
        drawn = examination.decode(draw(plan.noise(indices), plan.conditions(indices), indices))
        fine = torch.isfinite(drawn.flatten(1)).all(dim=1)
        finite += int(fine.sum())
        images.append(to_stored(torch.where(fine.reshape(-1, *(1 for _ in drawn.shape[1:])), drawn, 0.0)))
        if on_batch is not None:
            on_batch(len(indices))
    together = torch.cat(images)
    seen = examination.images.observe(together) if finite == len(together) else None
    return Sampled(together, seen, finite / len(together))


def pack(sampled: Sampled) -> bytes:
    """The bytes of a safetensors file; equal content gives equal bytes."""
    tensors = {"images": sampled.images, "finite": torch.tensor([sampled.finite], dtype=torch.float64)}
    if sampled.seen is not None:
        tensors |= {name: torch.from_numpy(value) for name, value in sampled.seen.tensors().items()}
    return save(tensors)


def unpack(path: Path) -> Sampled:
    """Reads what `pack` made. Raises CorruptData, naming the file, when it is damaged."""
    try:
        tensors = load_file(path)
        seen = None
        if "features" in tensors:
            seen = Observed.of({name: tensor.numpy() for name, tensor in tensors.items()})
        return Sampled(tensors["images"], seen, float(tensors["finite"]))
    except (SafetensorError, KeyError, OSError) as error:
        raise CorruptData(f"{path}: damaged samples ({error}); remove the file, it is made again") from error
