"""The training loop of one round: turns, accumulation, moving average, exact checkpoints, one or several processes.

Every start is a resume: the round goes on from the newest checkpoint in its folder. What is random in a step is a
function of (seed, round, step), so a resumed round equals an uninterrupted one bit for bit under one fingerprint.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewstep.diffusion.randomness import derive
from fewstep.objectives.registry import Term, build
from fewstep.recipes import Recipe
from fewstep.training.checkpoints import Checkpoint, Checkpoints
from fewstep.training.digests import differences, tensor_digest
from fewstep.training.distributed import World
from fewstep.training.loss_meter import Figures, OnProgress
from fewstep.training.optimiser import RoleOptimiser, rate
from fewstep.training.precision import autocast, dtype_of, resolve
from fewstep.training.roles.ema import Average, load_exactly
from fewstep.training.roles.target_network import Copies
from fewstep.training.roles.teacher_schedule import Recorder, teacher_at
from fewstep.training.roles.trainable import trained_state
from fewstep.training.step.batches import Source, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step
from fewstep.util.errors import DataDiffers, SettingsError
from fewstep.util.fingerprint import fingerprint
from fewstep.util.torch_threads import threads, useful_threads

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser

REPORTS, REPORT_STEPS = 200, 50
"""A report is made at least so many times a round and at least every so many steps."""


class RoundTrainer:
    """Trains the networks of one round.

    Args:
        recipe: with the settings that the run uses (overrides applied).
        round_index: which of its rounds, from 0.
        networks: Denoiser by role. "student" and other trained roles change in place; "teacher" is frozen.
        grid: native times of the student's steps; finest: with those of all rounds and teachers between them.
        sources: data and pairs.
        images: training samples of this round, over all turns.
        seed: of everything random.
        folder: where checkpoints stand; None keeps none. Several processes share it; the first writes.
        device: where to train.
        checkpoint_seconds, checkpoint_images: a checkpoint is due after this long or this many images.
        path: teachers in the order of their turns, where there is more than one.
        warn: told what the user should know, such as another fingerprint.
    """

    def __init__(
        self,
        recipe: Recipe,
        round_index: int,
        networks: dict[str, "Denoiser"],
        grid: list[float],
        sources: Sources,
        *,
        images: int,
        finest: list[float] | None = None,
        seed: int = 0,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        checkpoint_seconds: float = 20.0,
        checkpoint_images: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
        path: Sequence["Denoiser"] = (),
    ):
        self.recipe, self.round_index, self.round = recipe, round_index, recipe.rounds[round_index]
        self.training, self.seed, self.images = recipe.training, seed, images
        self.device, self.grid, self.sources, self.warn = torch.device(device), grid, sources, warn
        self.finest = finest or grid
        self.steps = images // self.training.batch
        self.cycle = [role for role, count in self.round.turns.items() for _ in range(count)]
        self.checkpoint_seconds, self.checkpoint_images = checkpoint_seconds, checkpoint_images
        self.where = f"recipe {recipe.name}, round {round_index + 1}"
        if self.steps < 1:
            raise SettingsError(f"{self.where}: {images} images are less than one batch of {self.training.batch}")
        self.world = World.current()
        if self.training.batch % (self.training.accumulate * self.world.size):
            parts = f"{self.world.size} processes of {self.training.accumulate} parts"
            raise SettingsError(f"{self.where}: {parts} do not divide the batch of {self.training.batch}")

        self.precision = resolve(self.training.precision, self.device)
        self.dtype = dtype_of(self.precision)
        self.networks = {role: network.to(self.device, self.dtype).eval() for role, network in networks.items()}
        for network in self.networks.values():
            network.requires_grad_(False)
        self.threads = useful_threads(self.training.batch * math.prod(self.networks["student"].sample_shape))
        self.fingerprints = [{**fingerprint(self.device, self.threads), "precision": self.precision}]
        self.terms = [build(settings) for settings in self.round.terms]
        self.copies = Copies(self.networks["student"], self.terms)
        self.networks |= self.copies.networks
        self.features = frozenset(r for r in self.networks for term in self.terms if term.reads_features(r))
        self.graphs = frozenset(r for r in self.networks for term in self.terms if term.differentiates(r))
        self.path = [teacher.to(self.device, self.dtype).eval().requires_grad_(False) for teacher in path]
        with threads(self.threads):
            self._prepare_heads()
        record = self.round.record
        self.recorder = None if record is None else Recorder(self.networks[record.role], record.count, self.steps)
        self.optimisers = {role: self._optimiser(role) for role in self.round.turns}
        self.average = Average(self.networks["student"], self.training.ema)
        self.checkpoints = None if folder is None else Checkpoints(Path(folder), warn)
        self.identity = self._identity()
        self.world.require_equal("what it is about to train (settings, weights or data)", self.identity)

    def run(self, on_progress: OnProgress | None = None) -> "Denoiser":
        """Trains to the end, from the newest checkpoint if there is one; returns the student with averaged weights.

        Raises NonFinite (naming step, term and role), SettingsError for a checkpoint of other settings, DataDiffers for
        one whose state is damaged or incomplete.
        """
        with threads(self.threads):
            return self._run(on_progress)

    def _run(self, on_progress: OnProgress | None) -> "Denoiser":
        step, started = self._resume(), time.monotonic()
        self.world.require_equal("the step it continues from", step)
        interval = self._report_interval()
        figures, trained = Figures(self.where), None
        last_images = step * self.training.batch
        while step < self.steps:
            role = self.cycle[step % len(self.cycle)]
            if role != trained:
                for other, optimiser in self.optimisers.items():
                    optimiser.train(other == role)
                trained = role
            self._step(step, role, figures)
            step += 1
            if self.recorder is not None:
                self.recorder.after(step)
            if step % interval and step < self.steps:
                continue
            means, done = self.world.average_figures(figures.means()), step * self.training.batch
            if self._due(started, done - last_images) or step == self.steps:
                self._save(step)
                started, last_images = time.monotonic(), done
            if on_progress is not None:
                on_progress(done, self.images, means)
        return self._finished()

    # --- one step ----------------------------------------------------------------------------------------------------

    def _view(
        self, step: int, role: str, draws: Draws, part: slice = slice(None), labelled_by: Source | None = None
    ) -> Step:
        progress, networks = step / self.steps, self.networks
        if self.path:
            networks = networks | {"teacher": teacher_at(self.path, progress, self.round.backtrack)}
        return Step(role, networks, self.grid, self.sources, draws, part, progress, self.features,
                    graphs=self.graphs, sampler=self.recipe.student.sampler, terms=self.terms,
                    finest=self.finest, labelled_by=labelled_by, inputs=self.round.inputs)  # fmt: skip

    def _draws(self, step: int) -> Draws:
        return Draws(self.seed, self.round_index, step, self.training.batch, self.device, self.dtype)

    def _losses(
        self, terms: Sequence[Term], step: int, role: str, draws: Draws, part: slice
    ) -> Iterator[tuple[Term, Tensor, dict[str, Tensor]]]:
        """Each term with its loss and statistics, on a batch that has the labels of what the term reads."""
        views: dict[Source | None, Step] = {}
        for term in terms:
            source = self.sources.read_by(term.settings.needs)
            if source not in views:
                views[source] = self._view(step, role, draws, part, source)
            yield term, *term.loss(views[source])

    def _backward(
        self, terms: Sequence[Term], step: int, role: str, draws: Draws, figures: Figures | None = None
    ) -> None:
        """Adds the gradients of the weighted sum of these terms' losses, the mean over the parts of the batch."""
        batch, parts = self.training.batch, self.training.accumulate
        for k in range(parts):
            total: Tensor | None = None
            with autocast(self.precision, self.device):
                for term, loss, statistics in self._losses(terms, step, role, draws, self.world.part(k, parts, batch)):
                    if figures is not None:
                        figures.require_finite(step, term.name, role, loss)
                        figures.add(f"{role}/{term.name}", loss.detach())
                        for name, value in statistics.items():
                            figures.add(f"{role}/{term.name}/{name}", value)
                    weighted = loss * term.weight(role)
                    total = weighted if total is None else total + weighted
            if total is None:
                raise SettingsError(f"{self.where}: no term with a weight trains the role '{role}'")
            if total.requires_grad or figures is not None:  # one term alone may have nothing to learn from this part
                (total / parts if parts > 1 else total).backward()

    def _step(self, step: int, role: str, figures: Figures) -> None:
        draws = self._draws(step)
        self._backward(self._terms_of(role), step, role, draws, figures)
        self.world.average_gradients(self.optimisers[role].parameters)
        progress = (step + 1) / (self.steps + 1)
        norm = self.optimisers[role].norm()
        figures.require_finite(step, self._behind(norm, step, role), role, norm, "the gradient of ")
        self.optimisers[role].step(progress, norm)
        figures.add(f"{role}/gradient_norm", norm)
        for term in self.terms:
            term.after_update(self._view(step, role, draws))
        if role == "student":
            figures.add("learning_rate", self.optimisers[role].peak * rate(self.recipe.optimiser, progress))
            self.average.update(self._turns_before(step, role))
            self.copies.update(progress)

    def _terms_of(self, role: str) -> list[Term]:
        """The terms that train the role."""
        return [term for term in self.terms if role in term.settings.trains and term.weight(role)]

    def _behind(self, norm: Tensor, step: int, role: str) -> str:
        """The terms of this turn; where this norm of their gradients is not finite only those that make it so.

        On a GPU all of them, since asking would wait for it, and at the next report the weights are others.
        """
        names = [term.name for term in self._terms_of(role)]
        if norm.device.type == "cpu" and not bool(torch.isfinite(norm)):
            own = [bool(torch.isfinite(self._norm_of(term, step, role))) for term in self._terms_of(role)]
            names = [name for name, finite in zip(names, own, strict=True) if not finite] or names
        return " + ".join(dict.fromkeys(names))

    def _norm_of(self, term: Term, step: int, role: str) -> Tensor:
        """Norm of the gradients of one term alone, computed anew from the same draws; the step's own are given up."""
        optimiser = self.optimisers[role]
        optimiser.clear()
        self._backward([term], step, role, self._draws(step))
        norm = optimiser.norm()
        optimiser.clear()
        return norm

    def _turns_before(self, step: int, role: str) -> int:
        """How often `role` was trained before this step."""
        cycles, rest = divmod(step, len(self.cycle))
        return cycles * self.cycle.count(role) + self.cycle[:rest].count(role)

    # --- set-up ------------------------------------------------------------------------------------------------------

    def _prepare_heads(self) -> None:
        draws = Draws(self.seed, self.round_index, 0, 2, self.device, self.dtype)
        with torch.no_grad():
            for number, term in enumerate(self.terms):
                role = next(r for r in self.round.turns if r in term.settings.trains)
                seed = derive(self.seed, "head", self.round_index, number)
                source = self.sources.read_by(term.settings.needs)
                term.prepare(self._view(0, role, draws, labelled_by=source), seed)

    def _optimiser(self, role: str) -> RoleOptimiser:
        modules = {role: self.networks[role]} if role in self.networks else {}  # some roles train heads only
        for number, term in enumerate(self.terms):
            if role in term.heads:
                head = term.heads[role].to(self.device, self.dtype)
                modules[f"{role}-head-{number}-{term.name}"] = head.requires_grad_(False)
        scale = self.round.roles[role].lr_scale if role in self.round.roles else 1.0
        return RoleOptimiser(modules, self.recipe.optimiser, scale)

    def _report_interval(self) -> int:
        wanted = max(1, min(REPORT_STEPS, self.steps // REPORTS))
        return -(-wanted // len(self.cycle)) * len(self.cycle)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _due(self, started: float, images: int) -> bool:
        if self.checkpoint_images is not None:
            return images >= self.checkpoint_images
        return time.monotonic() - started >= self.checkpoint_seconds

    def _identity(self) -> dict:
        """What a checkpoint belongs to: another identity cannot continue it."""
        recipe = self.recipe.resolved()
        return {
            "round": self.round_index,
            "student": recipe["student"],
            "optimiser": recipe["optimiser"],
            "training": recipe["training"],
            "objective": recipe["rounds"][self.round_index],
            "images": self.images,
            "seed": self.seed,
            "world": self.world.size,
            "grid": self.finest,
            "start": tensor_digest(self._weights(lambda module: module.state_dict())),
            "path": [tensor_digest(teacher.state_dict()) for teacher in self.path],
            "sources": self.sources.digest(self.seed, self.training.batch),
        }

    def _weights(self, state: Callable[[nn.Module], dict[str, Tensor]] = trained_state) -> dict[str, Tensor]:
        """Trained tensors, by role and name (heads included)."""
        return {
            f"{part}/{name}": value
            for optimiser in self.optimisers.values()
            for part, module in optimiser.modules.items()
            for name, value in state(module).items()
        }

    def _save(self, step: int) -> None:
        if self.checkpoints is None or self.world.rank:
            return
        tensors = {f"weights/{name}": value for name, value in self._weights().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.weights.items()}
        tensors |= {f"target/{name}": value for name, value in self.copies.state().items()}
        if self.recorder is not None:
            tensors |= {f"recorded/{name}": value for name, value in self.recorder.state().items()}
        for role, optimiser in self.optimisers.items():
            tensors |= {f"optimiser/{role}/{name}": value for name, value in optimiser.state().items()}
        record = {"identity": self.identity, "fingerprints": self.fingerprints, "done": step == self.steps}
        self.checkpoints.save(step, record, tensors)

    def _resume(self) -> int:
        found = self.checkpoints.latest() if self.checkpoints is not None else None
        if found is None:
            return 0
        other = differences(found.record.get("identity", {}), self.identity)
        if other:
            folder, what = self.checkpoints.folder, "; ".join(other[:3])
            raise SettingsError(
                f"{self.where}: the checkpoint in {folder} is of other settings: {what}",
                hint="restore the settings, or remove the folder to begin anew",
            )
        earlier = found.record["fingerprints"]
        if earlier[-1] != self.fingerprints[0]:
            changed = "; ".join(differences(earlier[-1], self.fingerprints[0]))
            self.warn(f"{self.where} continues on another machine or library, not bit for bit the same: {changed}")
            self.fingerprints = [*earlier, *self.fingerprints]
        else:
            self.fingerprints = earlier
        try:
            self._take(found)
        except ValueError as error:
            raise DataDiffers(f"{self.where}: checkpoint of step {found.step} does not fit: {error}") from error
        return found.step

    def _take(self, found: Checkpoint) -> None:
        groups: dict[str, dict[str, Tensor]] = {
            "weights": {}, "average": {}, "target": {}, "recorded": {}, "optimiser": {}
        }  # fmt: skip
        for full, value in found.tensors.items():
            kind, _, name = full.partition("/")
            if kind not in groups:
                raise ValueError(f"unknown tensor '{full}'")
            groups[kind][name] = value
        load_exactly(self._weights(), groups["weights"], "weights")
        self.average.load(groups["average"])
        self.copies.load(groups["target"])
        if self.recorder is not None:
            self.recorder.load(groups["recorded"], found.step)
        for role, optimiser in self.optimisers.items():
            prefix = f"{role}/"
            own = {n.removeprefix(prefix): v for n, v in groups["optimiser"].items() if n.startswith(prefix)}
            if not own and self._turns_before(found.step, role):
                raise ValueError(f"the optimiser state of role '{role}' is missing")
            optimiser.load(own)

    def _finished(self) -> "Denoiser":
        student = self.networks["student"].requires_grad_(False)
        load_exactly(trained_state(student), self.average.weights, "average")
        return student.float()
