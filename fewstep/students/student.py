"""Students: a trainable copy of a teacher, and how it samples in one to a few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs, GuidanceRange
from fewstep.diffusion.processes import Process, VariancePreserving
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.randomness import noise as keyed_noise
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.folding import fold_additions
from fewstep.networks.guide_network import GuidedNetwork, hidden_channels, open_input, silence
from fewstep.networks.initial_weights import initialise
from fewstep.networks.lora import add_lora
from fewstep.networks.pruning import inherit, most_needed, smaller
from fewstep.networks.shared_weights import copied, held_parameters
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.stock_schedulers import scheduler_times
from fewstep.students.student_settings import LoraSettings, SizeSettings, StudentSettings
from fewstep.util.errors import SettingsError

__all__ = ["SamplerSettings", "Student", "adapt", "make_student"]

MIN_ALPHA = 0.02  # of the first time of a student that predicts ε; below it x0 = (x − σ ε)/α is ill-conditioned
RENOISING = "student-sampling"  # purpose of the keyed noise of `renoise` students


class Student(nn.Module):
    """A denoiser with a sampler.

    Args:
        denoiser: trained by the caller through `student.denoiser.predict`; its process is the student's time.
        sampler: kind, number and times of the steps.
    """

    def __init__(self, denoiser: Denoiser, sampler: SamplerSettings | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.sampler = sampler or SamplerSettings()
        self.times()  # refuses what does not fit the process

    @property
    def start(self) -> float:
        """Native time of the first evaluation: where training must put the noise end."""
        return float(self.times()[0])

    def times(self, steps: int | None = None) -> Tensor:
        """Native times (steps,) float64 of the evaluations, decreasing; by default the sampler's own.

        On the process's own grid; for a network of a recorded family on the levels that a stock scheduler yields, so
        that the family's pipeline samples the student, where one does.
        """
        process, sampler = self.denoiser.process, self.sampler
        if sampler.times is not None and steps in (None, sampler.steps):
            times = torch.tensor(sampler.times, dtype=torch.float64)
            if times[0] > process.t_max:
                raise SettingsError(f"the student's first time {times[0]} lies beyond the process's {process.t_max}")
            return times
        steps = sampler.steps if steps is None else steps
        if sampler.spacing == "angle" and steps > 0:
            return _even_angles(process, process.t_max if sampler.start is None else sampler.start, steps)
        if self.denoiser.family is not None and sampler.spacing == "process":
            start = sampler.start
            if sampler.times is not None and sampler.times[0] < process.t_max:
                start = sampler.times[0]
            times = scheduler_times(self.denoiser, sampler.kind, steps, start)
            if times is not None:
                return times
        return process.grid(steps, sampler.start)

    def initial(self, noise: Tensor) -> Tensor:
        """The state at `start` that N(0, I) noise stands for."""
        return self.denoiser.process.initial(noise, self.start)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        steps: int | None = None,
        condition: Tensor | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        on_state: Callable[[Tensor, float], None] | None = None,
    ) -> Tensor:
        """N(0, I) `noise` (N, …) → samples (N, …), a function of noise, condition and seed.

        steps: other than the sampler's, taken on the process's own grid. condition: (N,) int64 labels.
        seed, indices: key the re-noising of `renoise` students; sample i of the batch is index i unless told.
        on_state: called with the state (N, …) and its native time before each evaluation.
        Raises SettingsError for noise of another shape than the samples', or labels that the student does not know.
        """
        self.denoiser.require_samples(noise, condition)
        process = self.denoiser.process
        times = self.times(steps)
        x = process.initial(noise, float(times[0]))
        indices = range(len(noise)) if indices is None else indices
        for step, t in enumerate(times):
            if on_state is not None:
                on_state(x, float(t))
            prediction = self.denoiser.predict(x, t, condition)
            if step + 1 == len(times):
                return prediction.x0
            if self.sampler.kind == "ode":
                epsilon = prediction.epsilon
            else:
                purpose = f"{RENOISING}/{step}"
                epsilon = keyed_noise(seed, purpose, indices, noise.shape[1:], noise.dtype).to(noise.device)
            x = process.add_noise(prediction.x0, epsilon, times[step + 1])
        raise SettingsError("a student needs at least one step")


def make_student(teacher: Denoiser, settings: StudentSettings, seed: int = 0) -> Student:
    """A trainable student of `teacher`: same process, classes and prediction type, of the same size or smaller.

    Sampling starts at σ/α = `max_noise_ratio`, or at the end of the process. A variance-preserving student that
    predicts ε starts where α ≥ 0.02 at the latest, since at almost pure noise no ε yields an x0; the noise itself is
    the state there. Further inputs start without effect. Fresh weights are keyed by `seed`. Below adapters alone lie
    the teacher's own weights, which rest in both.
    Raises SettingsError for a closed-form teacher, which has no weights: fit a network to it first (fewstep.training
    does).
    """
    if not any(True for _ in teacher.network.parameters()):
        raise SettingsError(f"a {type(teacher).__name__} has no weights for a student; fit a network to it first")
    alone = settings.lora is not None and settings.size is None and settings.guide is None
    source = teacher if settings.size is None else fold_additions(teacher)
    denoiser = copied(source, teacher.parameters() if alone and settings.init == "teacher" else ())
    denoiser.evaluations, denoiser.held = 0, frozenset()
    if settings.size is not None:
        denoiser.network = _smaller(denoiser, settings.size, settings.init == "teacher", seed)
    elif settings.init == "random":
        initialise(denoiser.network, generator(seed, "student-init"))
    denoiser.requires_grad_(True).train()
    if settings.guide is not None:
        _guide(denoiser, settings.guide, seed)
    scales = settings.guidance_input
    scales = GuidanceRange(scales.low, scales.high, scales.sample) if scales else None
    inputs = ExtraInputs(settings.second_time, scales, settings.negative_time)
    add_inputs(denoiser, inputs, generator(seed, "student-inputs"))
    adapt(denoiser, settings.lora, seed)
    start = _start(denoiser.process, denoiser.prediction_type, settings.max_noise_ratio)
    sampler = SamplerSettings(kind=settings.sampler, steps=settings.steps, start=start, spacing=settings.spacing)
    return Student(denoiser, sampler)


def _even_angles(process: Process, start: float, steps: int) -> Tensor:
    """Native times (steps,), the first at `start`, that divide atan(σ/α) evenly down to clean data.

    In a chain these are whole timesteps.
    """
    first = torch.tensor([start], dtype=torch.float64)
    angles = torch.atan2(process.sigma(first), process.alpha(first)) * (1 - torch.arange(1, steps).double() / steps)
    times = process.time(-2 * angles.tan().log())
    if isinstance(process, VariancePreserving):
        times = (times * (process.timesteps - 1)).round() / (process.timesteps - 1)
    return torch.cat([first, times])


def _smaller(denoiser: Denoiser, size: SizeSettings, inherits: bool, seed: int) -> nn.Module:
    """A smaller network than the denoiser's, of the same kind, on its device, with what remains of its weights or
    with fresh ones."""
    network = denoiser.network
    small = smaller(network, size.width, size.depth, size.middle, generator(seed, "student-init"))
    if inherits:
        inherit(small, network, most_needed(network, size.depth, _typical_output(denoiser, seed)))
    first = next(network.parameters())
    return small.to(first.device)


def _guide(denoiser: Denoiser, size: SizeSettings, seed: int) -> None:
    """Puts a guide beside the denoiser's network, with what the teacher's weights leave it; the network is held."""
    base, own = denoiser.network, generator(seed, "student-guide")
    guide = smaller(base, size.width, size.depth, size.middle, own, hidden_channels(base))
    kept = most_needed(base, size.depth, _typical_output(denoiser, seed))
    first = next(base.parameters())
    guide = silence(inherit(guide, base, kept)).to(first.device)
    denoiser.network = GuidedNetwork(open_input(base), guide).requires_grad_(True).train(denoiser.training)
    denoiser.hold(frozenset(f"base.{name}" for name, _ in base.named_parameters()))


def _typical_output(denoiser: Denoiser, seed: int, count: int = 16, steps: int = 4) -> Callable[[], Tensor]:
    """Calls the denoiser on states along its own sampling of keyed noise, the same at each call."""
    device = next(denoiser.network.parameters()).device
    labels = torch.arange(count, device=device) % denoiser.num_classes if denoiser.num_classes else None
    noise = keyed_noise(seed, "typical-inputs", range(count), denoiser.sample_shape, torch.float32).to(device)

    @cache
    def states() -> tuple[Tensor, Tensor, Tensor | None]:
        student, found = Student(denoiser, SamplerSettings(steps=steps)), []
        times = student.times()
        x = student.initial(noise)
        for t, following in zip(times, [*times[1:], None], strict=True):
            found.append(x)
            if following is not None:
                prediction = denoiser.predict(x, t, labels)
                x = denoiser.process.add_noise(prediction.x0, prediction.epsilon, following)
        repeated = None if labels is None else labels.repeat(steps)
        return torch.cat(found), times.repeat_interleave(count).to(device), repeated

    return lambda: denoiser.predict(*states()).output


def adapt(denoiser: Denoiser, lora: LoraSettings | None, seed: int) -> Denoiser:
    """`denoiser`, in place, with adapters keyed by `seed` as the only weights to train; unchanged for None."""
    if lora is not None:
        alpha = lora.rank if lora.alpha is None else lora.alpha
        denoiser.hold(add_lora(denoiser.network, lora.rank, alpha, generator(seed, "lora")))
        for parameter in held_parameters(denoiser):
            parameter.requires_grad_(False)
    return denoiser


def _start(process: Process, prediction_type: str, max_noise_ratio: float | None) -> float | None:
    start = process.t_max
    if max_noise_ratio is not None:
        start = min(start, float(process.time(torch.tensor(-2 * math.log(max_noise_ratio), dtype=torch.float64))))
    if isinstance(process, VariancePreserving):
        last = process.timesteps - 1
        if prediction_type == "epsilon":
            alphas = torch.tensor(process.alphas_cumprod, dtype=torch.float64).sqrt()
            last = int((alphas >= MIN_ALPHA).nonzero().max())
        start = min(math.floor(start * (process.timesteps - 1) + 1e-6), last) / (process.timesteps - 1)
    return None if start == process.t_max else start
