"""Whether a teacher samples well enough to be distilled: finite weights, a noisy start, samples near data."""

import torch
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.data.states import StateSet
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import Permutation, integers, noise
from fewstep.diffusion.sampling import sample
from fewstep.metrics.distances.sliced import sliced_wasserstein
from fewstep.util.config import Strict
from fewstep.util.device import device_of
from fewstep.util.errors import StageFailed
from fewstep.util.torch_threads import threads, useful_threads

SOLVER = "dpmsolver++"
BATCH = 256
_FEW = 4


class SampleQuality(Strict):
    """Distance of a teacher's samples to images.

    Attributes:
        sliced_wasserstein: between as many samples as images; `real_against_real`: between two halves of the images.
        ratio: of the first to the second.
        samples, solver, steps: how the samples were drawn.
    """

    sliced_wasserstein: float
    real_against_real: float
    ratio: float
    samples: int
    solver: str
    steps: int


class TeacherReport(Strict):
    """What the check saw: number of weights, signal-to-noise ratio where sampling begins, quality of samples (None
    without data to compare them with)."""

    parameters: int
    terminal_snr: float
    quality: SampleQuality | None


def check_teacher(teacher: Denoiser, images: ImageSet | StateSet | None, *, samples: int, steps: int,
                  max_distance_ratio: float, max_terminal_snr: float, seed: int) -> TeacherReport:  # fmt: skip
    """Check a teacher, on the device where it is.

    Args:
        teacher: to be checked.
        images: that it should sample like, or their states; `samples` of them, at most half, are compared with as many
            samples. Without any only a few samples are looked at: they must be finite.
        steps: of the solver.
        max_distance_ratio: allowed distance, in units of that between two halves of the images.
        max_terminal_snr: allowed signal-to-noise ratio where sampling begins.
        seed: of noise, labels and the choice of images.

    Raises:
        StageFailed: a check failed; the message says which, with its figures.
    """
    for name, value in teacher.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise StageFailed(f"the teacher's weight {name} holds NaN or infinite values")
    process = teacher.process
    snr = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)).exp())
    if snr > max_terminal_snr:
        raise StageFailed(
            f"the teacher's terminal signal-to-noise ratio is {snr:.3g}, above {max_terminal_snr:g}",
            hint="its noise schedule leaves data visible at the start of sampling; take another teacher or raise "
            "teacher.check.max_terminal_snr",
        )
    parameters = sum(value.numel() for value in teacher.parameters())
    if images is None:
        _require_finite(draw_samples(teacher, noise(seed, "teacher-check", range(_FEW), teacher.sample_shape),
                                     _drawn(teacher, _FEW, seed), steps), steps)  # fmt: skip
        return TeacherReport(parameters=parameters, terminal_snr=snr, quality=None)
    quality = _quality(teacher, images, min(samples, len(images) // 2), steps, seed)
    if quality.ratio > max_distance_ratio:
        raise StageFailed(
            f"the teacher's samples are too far from the images: sliced Wasserstein distance "
            f"{quality.sliced_wasserstein:.4g} is {quality.ratio:.2f} times that of real against real, allowed are "
            f"{max_distance_ratio:g}",
            hint="train longer (teacher.images) or wider (teacher.channels), or raise teacher.check.max_distance_ratio",
        )
    return TeacherReport(parameters=parameters, terminal_snr=snr, quality=quality)


def _quality(teacher: Denoiser, images: ImageSet | StateSet, count: int, steps: int, seed: int) -> SampleQuality:
    order = Permutation(len(images), seed, "teacher-check")(torch.arange(2 * count))
    one, other = images.images(order[:count]), images.images(order[count:])
    condition = _drawn(teacher, count, seed)
    if teacher.num_classes and images.num_classes:
        condition = images.labels[order[:count]]
    start = noise(seed, "teacher-check", range(count), teacher.sample_shape)
    samples = draw_samples(teacher, start, condition, steps)
    _require_finite(samples, steps)
    if isinstance(images, ImageSet):
        samples = samples.clamp(-1, 1)
    null, distance = sliced_wasserstein(one, other), sliced_wasserstein(samples, one)
    return SampleQuality(sliced_wasserstein=distance, real_against_real=null, ratio=distance / null, samples=count,
                         solver=SOLVER, steps=steps)  # fmt: skip


def _drawn(teacher: Denoiser, count: int, seed: int) -> Tensor | None:
    """Conditions (count,) drawn uniformly; None for a teacher without."""
    return integers(seed, "teacher-check", range(count), teacher.num_classes) if teacher.num_classes else None


def _require_finite(samples: Tensor, steps: int) -> None:
    if not bool(torch.isfinite(samples).all()):
        raise StageFailed(f"the teacher's samples hold NaN or infinite values ({SOLVER}, {steps} steps)")


def draw_samples(teacher: Denoiser, start: Tensor, condition: Tensor | None, steps: int) -> Tensor:
    """Samples (N, C, H, W) on the CPU, drawn from noise (N, C, H, W) and labels (N,) on the device of `teacher`."""
    device = device_of(teacher)
    starts = start.to(device).split(BATCH)
    labels = [None] * len(starts) if condition is None else condition.to(device).split(BATCH)
    with threads(useful_threads(starts[0].numel())):
        batches = [sample(teacher, noise, solver=SOLVER, steps=steps, condition=label).x
                   for noise, label in zip(starts, labels, strict=True)]  # fmt: skip
    return torch.cat(batches).cpu()
