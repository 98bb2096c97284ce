"""What the example's models reach: right colour and object, distance from real pictures, time for a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.emoji.autoencoder import decode, encode
from examples.emoji.compositions import Composition, spread
from examples.emoji.judge import Verdict, judge, real_pictures
from examples.emoji.parts import Parts
from examples.emoji.settings import STUDENT_STEPS
from fewstep.data.medium import to_bytes, to_unit_range
from fewstep.diffusion.randomness import noise as keyed_noise
from fewstep.diffusion.sampling import sample
from fewstep.metrics.distances.frechet import frechet_extrapolated
from fewstep.metrics.distances.kernel_distance import kernel_distance
from fewstep.metrics.latency import time_sampling
from fewstep.students.student import Student

SOLVERS = ("ddim", "dpmsolver++", "unipc", "euler")
_BATCH = 32
_SHOWN = 10


@dataclass(frozen=True)
class Measured:
    """Of one model: name, evaluations a sample, the verdict on its pictures, FD (extrapolated) and KID to real ones
    with their standard errors, images a second, and pictures (n, 3, H, W) uint8 to show."""

    name: str
    evaluations: int | None
    verdict: Verdict
    frechet: tuple[float, float]
    kernel: tuple[float, float]
    images_per_second: float | None
    pictures: Tensor


class Measuring:
    """Measures models on the same captions and, but for real pictures, from the same noise."""

    def __init__(self, parts: Parts):
        self.parts, own = parts, parts.settings
        self.asked: list[Composition] = spread(parts.compositions, own.samples, own.seed, "emoji-asked")
        self.rows = torch.tensor([parts.row[one] for one in self.asked])
        self.held_out = torch.tensor([one.held_out for one in self.asked])
        self.reference = self._features(real_pictures(parts.font, self._others(), own.seed + 1))

    def _others(self) -> list[Composition]:
        """What the reference pictures show: everything alike often."""
        own = self.parts.settings
        return spread(self.parts.compositions, max(2 * own.samples, 1_000), own.seed, "emoji-reference")

    @torch.no_grad()
    def _features(self, images: Tensor):
        model = self.parts.judge
        return torch.cat([model.features(part) for part in images.split(256)]).double().numpy()

    def real(self) -> Measured:
        """Other real pictures: what is best to be had."""
        return self._measured("real pictures", None, self._real(), None)

    def decoded(self) -> Measured:
        """Real pictures, encoded and decoded: what the autoencoder leaves."""
        network = self.parts.autoencoder
        decoded = decode(network, encode(network, self._real()))
        return self._measured("real pictures, encoded and decoded", None, decoded, None)

    def _real(self) -> Tensor:
        return real_pictures(self.parts.font, self.asked, self.parts.settings.seed)

    def teacher(self) -> Measured:
        """The teacher at its full steps."""
        own = self.parts.settings
        return self.solver("teacher", "dpmsolver++", own.steps, own.guidance)

    def rivals(self) -> list[Measured]:
        """Every training-free solver at as many evaluations as a student takes: without guidance, and with it in half
        the steps."""
        found = []
        for solver in SOLVERS:
            found.append(self.solver(f"{solver}, not guided", solver, STUDENT_STEPS, 1.0))
            found.append(self.solver(f"{solver}, guided", solver, STUDENT_STEPS // 2, self.parts.settings.guidance))
        return found

    def solver(self, name: str, solver: str, steps: int, guidance: float) -> Measured:
        """The teacher by a solver."""
        teacher = self.parts.teacher

        def draw(noise: Tensor, rows: Tensor, _first: int) -> Tensor:
            return sample(teacher, noise, solver=solver, steps=steps, condition=rows, guidance=guidance).x

        return self._drawn(name, steps * (1 if guidance == 1 else 2), draw)

    def student(self, name: str, student: Student) -> Measured:
        """A student in its own steps."""

        def draw(noise: Tensor, rows: Tensor, first: int) -> Tensor:
            return student.sample(noise, condition=rows, seed=1, indices=range(first, first + len(noise)))

        return self._drawn(name, student.sampler.steps, draw)

    def _drawn(self, name: str, evaluations: int, draw: Callable[[Tensor, Tensor, int], Tensor]) -> Measured:
        autoencoder, shape = self.parts.autoencoder, self.parts.teacher.sample_shape
        noise = keyed_noise(self.parts.settings.seed, "emoji-samples", range(len(self.rows)), shape)

        @torch.no_grad()
        def images(first: int, count: int) -> Tensor:
            part = slice(first, first + count)
            return decode(autoencoder, draw(noise[part], self.rows[part], first))

        pictures = torch.cat([images(first, _BATCH) for first in range(0, len(noise), _BATCH)])
        speed = time_sampling(lambda count: images(0, count), _BATCH, repeats=3)
        return self._measured(name, evaluations, pictures, speed["images_per_second"])

    def _measured(self, name: str, evaluations: int | None, images: Tensor, speed: float | None) -> Measured:
        pictures = to_bytes(images)
        seen = to_unit_range(pictures)
        features = self._features(seen)
        distance = frechet_extrapolated(features, self.reference)
        kernel = kernel_distance(features, self.reference)
        return Measured(name, evaluations, judge(self.parts.judge, seen, self.asked),
                        (distance.infinite, distance.infinite_error), (kernel.value, kernel.standard_error),
                        speed, pictures[:_SHOWN])  # fmt: skip
