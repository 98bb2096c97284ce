"""Which solvers at which costs are the baselines, and which of their samples are kept as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fewstep.diffusion.equal_solvers import equal
from fewstep.diffusion.solvers import steps_for
from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.protocol import Sampling
from tasks.evaluation.documents import baseline_name
from tasks.evaluation.settings import BaselinesSettings

PICTURES_PER_CLASS = 32
"""Images of every baseline that are kept for grids, of each of the first ten classes."""
TRAJECTORIES = 6
"""Samples whose trajectories from the noise are kept as pictures."""


@dataclass(frozen=True)
class Baseline:
    """One solver at one cost.

    Attributes:
        evaluations: network evaluations per sample, in `steps` steps.
        asked: the counts in the settings that it stands for.
        sampling: how its samples are drawn.
        drawn_as: name of the baseline whose samples are drawn for this one too: its own, or that of one whose solver is
            the same in so many steps.
    """

    solver: str
    evaluations: int
    steps: int
    asked: tuple[int, ...]
    sampling: Sampling
    drawn_as: str

    @property
    def name(self) -> str:
        return baseline_name(self.solver, self.evaluations)

    @property
    def subject(self) -> str:
        """Name in messages and tables."""
        return f"{solver_name(self.solver)}, {counted(self.evaluations, 'evaluation')}"


def plan(settings: BaselinesSettings) -> list[Baseline]:
    """Each solver at each count of network evaluations, or at the nearest lower one that it can have.

    Heun has odd counts only; under guidance every step counts twice or more. Counts below a solver's lowest are left
    out. Solvers that are the same in so many steps are drawn once, as the teacher's solver where it is among them.
    """
    asked: dict[tuple[str, int], list[int]] = {}
    teacher = teacher_solver(settings.solvers)
    for solver in settings.solvers:
        for count in settings.counts if solver == teacher else sorted(set(settings.baseline_steps)):
            possible = (n for n in range(count, 0, -1) if steps_for(solver, n, settings.guidance) is not None)
            nearest = next(possible, None)
            if nearest is not None:
                asked.setdefault((solver, nearest), []).append(count)
    made = []
    for (solver, evaluations), counts in asked.items():
        steps = steps_for(solver, evaluations, settings.guidance)
        sampling = Sampling(solver=solver, steps=steps, evaluations=evaluations, guidance=settings.guidance)
        others = sorted((one for one, at in asked if at == evaluations), key=lambda one: one != teacher)
        drawn = next(one for one in others if steps_for(one, evaluations, settings.guidance) == steps
                     and equal(one, solver, steps))  # fmt: skip
        made.append(Baseline(solver, evaluations, steps, tuple(counts), sampling, baseline_name(drawn, evaluations)))
    return made


def teacher_baseline(baselines: Sequence[Baseline]) -> Baseline:
    """The baseline that stands for the teacher: DPM-Solver++ (else the first solver) at the highest count."""
    chosen = teacher_solver([baseline.solver for baseline in baselines])
    return max((baseline for baseline in baselines if baseline.solver == chosen),
               key=lambda baseline: baseline.evaluations)  # fmt: skip


def teacher_solver(solvers: Sequence[str]) -> str:
    """The solver that stands for the teacher: DPM-Solver++, else the first."""
    return "dpmsolver++" if "dpmsolver++" in solvers else solvers[0]


def pictured(classes: torch.Tensor | None, samples: int) -> torch.Tensor:
    """Indices of the samples kept as pictures: the first of each of the first ten classes, in order of class."""
    if classes is None:
        return torch.arange(min(samples, PICTURES_PER_CLASS * 10))
    rows = [(classes == label).nonzero().flatten()[:PICTURES_PER_CLASS] for label in classes.unique()[:10]]
    return torch.cat(rows)


def followed(shown: torch.Tensor) -> torch.Tensor:
    """The few of the pictured samples whose trajectories are kept, of different classes."""
    return shown[torch.linspace(0, len(shown) - 1, min(TRAJECTORIES, len(shown))).round().long()].unique()
