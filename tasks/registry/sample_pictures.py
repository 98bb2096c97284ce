"""Samples of a registered version as one picture."""

import math
from pathlib import Path

from fewstep.util.errors import NonFinite, SettingsError
from fewstep.util.files import replacing
from tasks.registry.model_registry import Registry, Version

_BATCH = 250
PURPOSE = "sample"  # of the noise: sample i of a seed is the same whatever the number of samples


def draw(registry: Registry, version: Version, out: Path, *, count: int, steps: int | None = None,
         label: int | None = None, seed: int = 0) -> int:  # fmt: skip
    """Writes `count` samples to the PNG `out` and returns the number of steps they were drawn with.

    Classes are taken in turn, one per column where that fits, unless `label` names one. The registered bytes are
    verified first and no code among them is run. Raises SettingsError for a class or file that cannot be.
    """
    out = Path(out)
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: expected the name of a .png file in a folder that exists")
    from tasks.registry.gate.champion_test import student

    one = student(registry, version)
    import torch

    from fewstep.data.images import to_bytes
    from fewstep.diffusion.randomness import noise
    from fewstep.util.image_grid import save, sheet

    classes = one.denoiser.num_classes
    if label is not None and label >= classes:
        known = f"its classes are 0 to {classes - 1}" if classes else "it takes no class"
        raise SettingsError(f"--class {label}: {version.name} has no such class; {known}")
    device = next(one.denoiser.parameters()).device
    images = []
    for indices in torch.arange(count).split(_BATCH):
        start = noise(seed, PURPOSE, indices, one.denoiser.sample_shape).to(device)
        wanted = None
        if classes:
            wanted = (indices % classes if label is None else torch.full_like(indices, label)).to(device)
        found = one.sample(start, steps=steps, condition=wanted, seed=seed, indices=indices.tolist()).float().cpu()
        if not torch.isfinite(found).all():
            raise NonFinite(f"{version.name}: samples are NaN or infinite", role="student")
        images.append(to_bytes(found))
    with replacing(out) as temporary:
        save(sheet(torch.cat(images), _columns(count, classes if label is None else 0)), temporary)
    return steps or one.sampler.steps


def _columns(count: int, classes: int) -> int:
    """A multiple of the number of classes near a square, so that a class fills whole columns."""
    square = max(1, math.ceil(math.sqrt(count)))
    if 1 < classes <= count and classes <= 2 * square:
        return classes * max(1, round(square / classes))
    return min(square, count)
