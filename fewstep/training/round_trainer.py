"""The training loop of one round and its step: turns, accumulation, one or several processes.

Every start is a resume: the round goes on from the newest checkpoint in its folder. What is random in a step is a
function of (seed, round, step), so a resumed round equals an uninterrupted one bit for bit under one fingerprint.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import derive
from fewstep.networks.gradient_checkpointing import checkpoint_blocks
from fewstep.networks.sharded import end_of_step
from fewstep.objectives.registry import build
from fewstep.objectives.term import Term
from fewstep.recipes import Recipe
from fewstep.training.digests import beside_digest, tensor_digest
from fewstep.training.distributed import World
from fewstep.training.gradient_sums import OrderedSum, add_gradients
from fewstep.training.loss_meter import Figures, OnProgress
from fewstep.training.optimiser import rate
from fewstep.training.precision import autocast, dtype_of, resolve
from fewstep.training.roles.placement import Placement
from fewstep.training.roles.sharded_placement import ShardedPlacement
from fewstep.training.roles.target_network import Copies
from fewstep.training.roles.teacher_schedule import teacher_at
from fewstep.training.round_state import RoundState
from fewstep.training.run_options import RunOptions
from fewstep.training.saving.round_checkpoints import RoundCheckpoints
from fewstep.training.step.ahead import Ahead
from fewstep.training.step.batches import Source, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from fewstep.util.errors import SettingsError
from fewstep.util.fingerprint import fingerprint
from fewstep.util.held_signals import HeldSignals
from fewstep.util.torch_threads import threads, useful_threads

REPORTS, REPORT_STEPS = 200, 50
"""A report is made at least so many times a round and at least every so many steps."""
T = TypeVar("T")


class RoundTrainer:
    """Trains the networks of one round.

    Args:
        recipe: with the settings that the run uses (overrides applied).
        round_index: which of its rounds, from 0.
        networks: Denoiser by role. "student" and other trained roles change in place; "teacher" is frozen.
        grid: native times of the student's steps.
        sources: data and pairs.
        options: of the round: its images, seed, device and checkpoints.
        finest: the grid's times with those of all rounds and teachers between them; None: `grid`.
        path: teachers in the order of their turns, where there is more than one.

    Raises SettingsError for too few images, or a batch that the processes and its parts do not divide.
    """

    def __init__(
        self,
        recipe: Recipe,
        round_index: int,
        networks: dict[str, Denoiser],
        grid: list[float],
        sources: Sources,
        options: RunOptions,
        *,
        finest: list[float] | None = None,
        path: Sequence[Denoiser] = (),
    ):
        self.recipe, self.round_index, self.round = recipe, round_index, recipe.rounds[round_index]
        self.training, self.options, self.sources = recipe.training, options, sources
        self.steps = options.images // self.training.batch
        self.where = f"recipe {recipe.name}, round {round_index + 1}"
        self.world = World.current()
        self._check_sizes()
        self.device = torch.device(options.device)
        self.precision = resolve(self.training.precision, self.device)
        self.dtype = dtype_of(self.precision)
        self.shards = options.shards and self.world.size > 1
        placed = ShardedPlacement if self.shards else Placement
        self.placement = placed(self.device, self.dtype, self._resting())
        networks = {role: self.placement.place(network, role not in self.round.turns)
                    for role, network in networks.items()}  # fmt: skip
        self.path = [self.placement.place(teacher, rests=True) for teacher in path]
        if options.gradient_checkpointing:
            for network in (*networks.values(), *self.path):
                checkpoint_blocks(network.network)
        self.threads = useful_threads(self.training.batch * math.prod(networks["student"].sample_shape),
                                      self.training.parts)  # fmt: skip
        self.terms = [build(settings) for settings in self.round.terms]
        # a sharded copy has no layers to be brought one by one: it lies with the student
        copies = Copies(networks["student"], self.terms, options.averages_apart and not self.shards)
        networks |= copies.networks
        self.placement.spread([*networks.values(), *self.path])
        self.setup = StepSetup(
            networks,
            grid,
            sources,
            sampler=recipe.student.sampler,
            finest=finest,
            terms=self.terms,
            inputs=self.round.inputs,
            features=frozenset(r for r in networks for term in self.terms if term.reads_features(r)),
            graphs=frozenset(r for r in networks for term in self.terms if term.differentiates(r)),
            asked=self.world.any if self.shards else bool,
        )
        self._ahead: Ahead | None = None
        with threads(self.threads):
            self._prepare_heads()
        self.state = RoundState(recipe, self.round, networks, copies, self.terms, self.steps, options.averages_apart)

    @cached_property
    def checkpoints(self) -> RoundCheckpoints:
        """Those of what is about to be trained, which is the same in all processes."""
        identity = self._identity()
        self.world.require_equal("what it is about to train (settings, weights or data)", identity)
        machine = {**fingerprint(self.device, self.threads), "precision": self.precision}
        if self.options.gradient_checkpointing and self.round.differentiates_forwards:
            machine["gradient_checkpointing"] = True
        if self.shards:
            machine["shards"] = self.world.size
        return RoundCheckpoints(self.where, self.options, identity, machine, self.world if self.shards else None)

    @property
    def cycle(self) -> list[str]:
        """The roles in the order of their turns."""
        return self.state.cycle

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, on_progress: OnProgress | None = None) -> Denoiser:
        """Trains to the end, from the newest checkpoint if there is one; returns the student with averaged weights.

        A signal that asks the process to end waits for the end of the step under way and for a checkpoint of it.

        Raises NonFinite (naming step, term and role), SettingsError for a checkpoint of other settings, DataDiffers for
        one whose state is damaged or incomplete.
        """
        with threads(self.threads), HeldSignals() as held, self.checkpoints, self._making_ahead():
            return self._run(on_progress, held)

    @contextmanager
    def _making_ahead(self) -> Iterator[None]:
        """Inside, steps are taken one after the other: where a device works beside this process, the draws of the next
        one are made ahead."""
        wanted = self.options.made_ahead
        if not (self.device.type != "cpu" if wanted is None else wanted):
            yield
            return
        try:
            with Ahead(self._draws_of, self._kind_of, self.steps) as self._ahead:
                yield
        finally:
            self._ahead = None

    def _kind_of(self, step: int) -> tuple[str, int]:
        """By which steps ask for the same: whose turn it is, and the size of the samples."""
        return self.cycle[step % len(self.cycle)], self.sources.sizes.at(step)[0]

    def _run(self, on_progress: OnProgress | None, held: HeldSignals) -> Denoiser:
        figures = Figures(self.where)
        step, saved_at = self.checkpoints.resume(self.state, figures), time.monotonic()
        self.world.require_equal("the step it continues from", step)
        interval, batch = self._report_interval(), self.training.batch
        saved_images, cost = step * batch, 0.0
        while step < self.steps:
            self.turn(step, figures)
            step += 1
            if self.state.recorder is not None:
                self.state.recorder.after(step)
            asked = bool(held.arrived)      # once a step: what arrives from here on waits for a checkpoint of the next
            if step % interval == 0 or step == self.steps:
                means, done = self.world.average_figures(figures.means()), step * batch
                began = time.monotonic()
                due = self.options.checkpoint_due(began - saved_at, done - saved_images, cost, self.checkpoints.busy)
                last = asked or step == self.steps
                due, last = self._first_says((due, last))
                if due or last:
                    self._save(step, figures, behind=not last)
                    saved_at, saved_images = time.monotonic(), done
                    cost = saved_at - began
                if on_progress is not None:
                    on_progress(done, self.options.images, means)
            elif self._first_says(asked):
                self._save(step, figures)
            self.checkpoints.check()
            if asked:
                self.checkpoints.wait()
                held.deliver()
        self.placement.restore()
        return self.state.finished_student(self.placement)

    def untrained(self) -> Denoiser:
        """What `run` returns, of a round that takes no step: for whoever looks at how the rounds are set up."""
        if self.state.recorder is not None:
            for mark in self.state.recorder.marks:
                self.state.recorder.after(mark)
        self.placement.restore()
        return self.state.finished_student(self.placement)

    def given_back(self, role: str) -> Denoiser:
        """The network of this role after the round, whole."""
        return self.placement.given_back(self.state.networks[role])

    def recorded(self) -> list[Denoiser]:
        """The checkpoints of a network that the round recorded."""
        return self.state.recorder.networks(self.placement)

    def _first_says(self, here: T) -> T:
        """What is so: of processes that have to do it together, in the first."""
        return self.world.of_each(here)[0] if self.shards else here

    def turn(self, step: int, figures: Figures) -> None:
        """Step number `step` of the round, in the turn of the role that has it then."""
        role = self.cycle[step % len(self.cycle)]
        self.state.train_only(role)
        self._step(step, role, figures)

    def _save(self, step: int, figures: Figures, behind: bool = False) -> None:
        """A checkpoint of the state before `step`, with the figures since the last report; of several processes the
        first writes it, with its own figures, and each its rows. behind: written while the training goes on. Raises
        NonFinite where a figure is not finite."""
        figures.check()
        if self.world.rank == 0 or self.shards:
            self.checkpoints.save(self.state, step, figures, done=step == self.steps, behind=behind)

    # --- one step, top to bottom -------------------------------------------------------------------------------------

    def _step(self, step: int, role: str, figures: Figures) -> None:
        """One update of `role`: the gradients of its terms' losses, the optimiser, what follows the student."""
        draws = self._draws_of(step) if self._ahead is None else self._ahead.draws(step)
        optimiser = self.state.optimisers[role]
        self._backward(self._terms_of(role), step, role, draws, figures)
        if self.world.size > 1:
            self._exchange(optimiser.everywhere)
        norm, progress = optimiser.norm(), (step + 1) / (self.steps + 1)
        figures.require_finite(step, self._behind(norm, step, role), role, norm, "the gradient of ")
        optimiser.step(progress, norm)
        figures.add(f"{role}/gradient_norm", norm)
        for term in self.terms:
            term.after_update(self._view(step, role, draws))
        if self.shards:
            end_of_step([*self.setup.networks.values(), *self.path])
        if role == "student":
            figures.add("learning_rate", optimiser.peak * rate(self.recipe.optimiser, progress))
            self.state.average.update(self.state.turns_before(step, role))
            self.state.copies.update(progress)

    def _backward(
        self, terms: Sequence[Term], step: int, role: str, draws: Draws, figures: Figures | None = None
    ) -> None:
        """Makes this process's share of the gradient of the weighted sum of these terms' losses, a mean over the batch.

        figures: take the losses and statistics; None: the gradients are all that is wanted.
        """
        optimiser, gradients = self.state.optimisers[role], OrderedSum(add_gradients)
        for part in range(self.training.parts // self.world.size):
            self._backward_of_part(part, terms, step, role, draws, figures)
            gradients.take(optimiser.taken())
        optimiser.give(gradients.total())

    def _exchange(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sums the gradients of all processes; those of rows are sums as they come."""
        found = self.world.sum_gradients([p.grad for p in parameters], parameters)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient

    def _backward_of_part(self, part: int, terms: Sequence[Term], step: int, role: str, draws: Draws,
                          figures: Figures | None) -> None:  # fmt: skip
        batch, passes, parts = self.training.batch, self.training.accumulate, self.training.parts
        for k in range(part * passes, (part + 1) * passes):
            total: Tensor | None = None
            rows = self.world.rows(k, passes * parts // self.world.size, batch)
            with autocast(self.precision, self.device):
                for term, loss, statistics in self._losses(terms, step, role, draws, rows):
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
                (total / (passes * parts) if passes * parts > 1 else total).backward()

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

    def _view(
        self, step: int, role: str, draws: Draws, part: slice = slice(None), labelled_by: Source | None = None
    ) -> Step:
        """What a term sees of a part of step number `step`."""
        progress, setup = step / self.steps, self.setup
        size, _ = self.sources.sizes.at(step)
        if self.path:
            teacher = teacher_at(self.path, progress, self.round.backtrack)
            setup = dataclasses.replace(setup, networks={**setup.networks, "teacher": teacher})
        if size:
            views = {id(network): network.sized(size) for network in setup.networks.values()}   # some have two roles
            sized = {role: views[id(network)] for role, network in setup.networks.items()}
            setup = dataclasses.replace(setup, networks=sized)
        return Step(setup, role, draws, part, progress, labelled_by)

    def _draws_of(self, step: int) -> Draws:
        return Draws(self.options.seed, self.round_index, step, self.training.batch, self.device, self.dtype)

    def _terms_of(self, role: str) -> list[Term]:
        """The terms that train the role."""
        return [term for term in self.terms if term.trains(role)]

    # --- which term is behind a gradient that is not finite ----------------------------------------------------------

    def _behind(self, norm: Tensor, step: int, role: str) -> str:
        """The terms of this turn; where this norm of their gradients is not finite only those that make it so.

        On a GPU all of them, since asking would wait for it, and at the next report the weights are others.
        """
        names = [term.name for term in self._terms_of(role)]
        if norm.device.type == "cpu" and not bool(torch.isfinite(norm)):
            finite = [bool(torch.isfinite(self._norm_of(term, step, role))) for term in self._terms_of(role)]
            names = [name for name, fine in zip(names, finite, strict=True) if not fine] or names
        return " + ".join(dict.fromkeys(names))

    def _norm_of(self, term: Term, step: int, role: str) -> Tensor:
        """Norm of the gradients of one term alone, computed anew from the same draws; the step's own are given up."""
        optimiser = self.state.optimisers[role]
        optimiser.clear()
        self._backward([term], step, role, self._draws_of(step))
        norm = optimiser.norm()
        optimiser.clear()
        return norm

    # --- set-up ------------------------------------------------------------------------------------------------------

    def _check_sizes(self) -> None:
        batch, parts = self.training.batch, self.training.parts
        if self.steps < 1:
            raise SettingsError(f"{self.where}: {self.options.images} images are less than one batch of {batch}")
        if not self.world.shares(parts):
            raise SettingsError(f"{self.where}: {self.world.size} processes cannot share {parts} parts of a batch; "
                                f"each takes 1, 2, 4, … of them")

    def _resting(self) -> torch.dtype | None:
        """The format of what rests, where it is another one than that of the rest."""
        if self.training.frozen == "float32":
            return None
        if self.precision != self.training.frozen:
            raise SettingsError(f"{self.where}: frozen weights in {self.training.frozen} go with computations in it, "
                                f"and these are in {self.precision}", hint="set distill.precision: bfloat16, or leave "
                                "distill.frozen out")  # fmt: skip
        return torch.bfloat16

    def _prepare_heads(self) -> None:
        """Has every term build its heads, on the device and frozen until their role's turn."""
        draws = Draws(self.options.seed, self.round_index, 0, 2, self.device, self.dtype)
        with torch.no_grad():
            for number, term in enumerate(self.terms):
                role = next(r for r in self.round.turns if r in term.settings.trains)
                seed = derive(self.options.seed, "head", self.round_index, number)
                source = self.sources.read_by(term.settings.needs)
                term.prepare(self._view(0, role, draws, labelled_by=source), seed)
                for head in term.heads.values():
                    head.to(self.device, self.dtype).requires_grad_(False)

    def _report_interval(self) -> int:
        """Steps between two reports: whole cycles of turns."""
        wanted = max(1, min(REPORT_STEPS, self.steps // REPORTS))
        return -(-wanted // len(self.cycle)) * len(self.cycle)

    def _identity(self) -> dict:
        """What a checkpoint belongs to: another identity cannot continue it."""
        recipe = self.recipe.resolved()
        return {
            "round": self.round_index,
            "student": recipe["student"],
            "optimiser": recipe["optimiser"],
            "training": recipe["training"],
            "objective": recipe["rounds"][self.round_index],
            "images": self.options.images,
            "seed": self.options.seed,
            "grid": self.setup.finest or self.setup.grid,
            "start": tensor_digest(self.state.weights(lambda module: self.placement.given(module).state_dict())),
            "path": [tensor_digest(self.placement.given(teacher).state_dict()) for teacher in self.path],
            "sources": self.sources.digest(self.options.seed, self.training.batch),
            **beside_digest(self.state.networks["student"]),
        }
