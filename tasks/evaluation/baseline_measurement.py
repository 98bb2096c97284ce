"""From the samples of every baseline to baselines.json and the arrays beside it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.medium import to_stored
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.sampling import sample
from fewstep.diffusion.solvers import is_stochastic
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.portraits import portraits
from fewstep.metrics.protocol import ClassFigures, FrameFigures, Protocol, Value, store
from fewstep.metrics.sample_set import Sampled, unpack
from fewstep.util.device import device_of
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.baseline_plan import Baseline, followed, pictured, teacher_baseline
from tasks.evaluation.documents import Baselines, Measured, SolverRow
from tasks.evaluation.settings import BaselinesSettings


@dataclass(frozen=True)
class _Measured:
    """The samples of one baseline with what was measured; nothing but samples where some are not finite."""

    sampled: Sampled
    values: dict[str, Value]
    classes: list[ClassFigures]
    frames: list[FrameFigures]
    replicates: Tensor | None


def measure_baselines(examination: Examination, teacher: Denoiser, plan: Sequence[Baseline],
                      files: Sequence[Path], settings: BaselinesSettings, seed: int, workers: int,
                      warn: Callable[[str], None]) -> tuple[Baselines, BaselineArrays]:  # fmt: skip
    """All figures of all baselines, and of the floor.

    Args:
        files: the samples of each baseline of the plan, as `pack` stores them; one file of several that are the same.
        seed: of the noise that stochastic solvers add.
        workers: baselines that are measured at once.
        warn: told of baselines with samples that are not finite.
    """
    reference = teacher_baseline(plan)
    classes = examination.plan.classes
    best = unpack(files[plan.index(reference)]).images
    shown = pictured(classes, examination.plan.samples)

    def measure(baseline: Baseline, file: Path) -> _Measured:
        sampled = unpack(file)
        if sampled.seen is None:
            return _Measured(sampled, {}, [], [], None)
        fd = examination.frechet(sampled.seen, classes)
        values = examination.measure(
            sampled.seen, baseline.subject, conditions=classes, images=sampled.images, sampling=baseline.sampling,
            teacher=None if baseline == reference else best, fd=fd)  # fmt: skip
        return _Measured(sampled, values, examination.per_class(sampled.seen, classes),
                         examination.per_frame(sampled.seen), torch.from_numpy(fd.replicates))  # fmt: skip

    protocols: dict[str, Protocol] = {}
    floor = Measured(subject=examination.floor_subject, values=store(examination.floor(), protocols),
                     classes=tuple(examination.floor_per_class()),
                     frames=tuple(examination.floor_per_frame()))  # fmt: skip
    rows, features, replicates, pictures = [], {}, {}, {}
    with ThreadPoolExecutor(workers) as pool:
        for baseline, found in zip(plan, pool.map(measure, plan, files), strict=True):
            note = None
            if found.sampled.seen is None:
                note = f"{1 - found.sampled.finite:.1%} of the samples are NaN or infinite"
                warn(f"{baseline.subject}: {note}")
            else:
                features[baseline.name] = torch.from_numpy(found.sampled.seen.features)
                replicates[baseline.name] = found.replicates
            pictures[baseline.name] = portraits(found.sampled.images[shown], examination.rate).contiguous()
            rows.append(SolverRow(
                subject=baseline.subject, solver=baseline.solver, evaluations=baseline.evaluations,
                steps=baseline.steps, asked=baseline.asked, teacher=baseline == reference, sampling=baseline.sampling,
                values=store(found.values, protocols), classes=tuple(found.classes),
                frames=tuple(found.frames), note=note,
                drawn_as=None if baseline.drawn_as == baseline.name else baseline.drawn_as))  # fmt: skip
    document = Baselines(
        guidance=settings.guidance, features=examination.images.extractor.name, reference=len(examination.images.test),
        num_classes=teacher.num_classes, floor=floor, rows=tuple(rows), protocols=protocols,
        prompts=_prompts(examination), drawn=examination.drawn, medium=examination.images.test.medium,
        rate=examination.rate)  # fmt: skip
    chosen = followed(shown)
    states = _trajectories(teacher, examination, reference, chosen, best[chosen], seed)
    return document, BaselineArrays(best, features, replicates, pictures, shown, states, chosen)


def _prompts(examination: Examination) -> dict[str, str]:
    table = examination.prompts
    return {} if table is None else {str(row): table.texts[row] for row in examination.plan.classes.unique().tolist()}


def _trajectories(teacher: Denoiser, examination: Examination, baseline: Baseline, indices: Tensor, samples: Tensor,
                  seed: int) -> Tensor:  # fmt: skip
    """(n, S + 1, C, H, W) uint8: pictures of the teacher's states from noise on, at unit variance, and of the samples
    that they end in."""
    device, plan = device_of(teacher), examination.plan
    chance = {"generator": generator(seed, "evaluation-solver-pictures")} if is_stochastic(baseline.solver) else {}
    classes = None if plan.classes is None else plan.classes[indices].to(device)
    path = sample(teacher, plan.noise(indices).to(device), solver=baseline.solver, steps=baseline.steps,
                  condition=classes, guidance=baseline.sampling.guidance, keep="all", **chance)  # fmt: skip
    scales = teacher.process.scale(path.times).clamp(min=1).to(path.states)
    seen = [portraits(to_stored(examination.decode(states / scale)), examination.rate)
            for states, scale in zip(path.states.unbind(1), scales, strict=True)]  # fmt: skip
    return torch.stack([*seen, portraits(samples, examination.rate)], dim=1).contiguous()
