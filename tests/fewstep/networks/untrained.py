"""Untrained denoisers of each kind, something to ask them, and students whose additions have learnt something."""

from collections.abc import Callable

import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings

VP = VariancePreserving.cosine()
KINDS = {
    "mlp": (VP, "v_prediction"),
    "unet": (VP, "v_prediction"),
    "flow": (Flow(), "flow_prediction"),
    "plain": (EDM(), "sample"),
}
"""Process and prediction type of each; "plain" has no classes."""


def origin(kind: str, *, hidden: int = 16, blocks: int = 2, channels=(8, 16), layers: int = 1) -> Denoiser:
    """An MLP of so many blocks and hidden units, or a UNet of 8 x 8 images with so many layers a block."""
    process, predicts = KINDS[kind]
    if kind == "mlp":
        return Denoiser(build(lambda: ResidualMLP((2,), 4, hidden, blocks)), process, predicts, (2,), 3, 3, Angle())
    classes = 0 if kind == "plain" else 3
    return Denoiser(new_unet(8, 1, classes, channels, layers), process, predicts, (1, 8, 8), classes, classes or None)


def batch(denoiser: Denoiser) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (4, ...), times and labels, the last that of no class."""
    x = torch.randn(4, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=torch.float64), torch.tensor([0, 1, 2, 3])


def learnt(plain: Denoiser, settings: StudentSettings, added: Callable[[str], bool] | None = None,
           scale: float = 0.1) -> Student:  # fmt: skip
    """A student of `plain` whose parameters of names in `added` (or all that are trained) have left their start."""
    student = make_student(plain, settings).eval()
    with torch.no_grad():
        for number, (name, value) in enumerate(student.denoiser.named_parameters()):
            if added(name) if added else name not in student.denoiser.held:
                value.add_(scale * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
    return student
