"""The rounds of a run on networks without values: set up as they would be, and a step in the turn of every role."""

from __future__ import annotations

import copy
import dataclasses
import gc
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.sharded import units
from fewstep.recipes import Overrides, Recipe
from fewstep.students.student import Student
from fewstep.training.distillation import Distillation
from fewstep.training.distributed import in_transit
from fewstep.training.loss_meter import Figures
from fewstep.training.memory import RoleMemory, RoundMemory
from fewstep.training.moments_8bit import parts_of
from fewstep.training.precision import resolve
from fewstep.training.rehearsal.fake_weights import FakeWeights, without_values
from fewstep.training.rehearsal.stand_ins import Outputs, Samples
from fewstep.training.rehearsal.tensor_memory import TensorMemory, storages
from fewstep.training.roles.trainable import trained_state
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import PairSource

_CYCLES = 64    # of turns in a round of a rehearsal; its steps are taken halfway


@dataclass(frozen=True)
class Machine:
    """Where a run is thought to be: on one or more GPUs or CPUs, and how it saves memory there (see RunOptions)."""

    gpu: bool
    gradient_checkpointing: bool = False
    averages_apart: bool = False
    devices: int = 1


def rehearse(recipe: Recipe, teacher: Denoiser, machine: Machine, states: int = 16) -> list[RoundMemory]:
    """What each round of the recipe takes of memory.

    teacher: its weights, which may lie on meta, are taken away. Its table of conditions, if it takes one, should be
    `stand_ins.Conditions`. states: along a stored trajectory, where the recipe reads them.
    Raises SettingsError for a recipe that the teacher cannot serve.
    """
    if recipe.training.precision == "auto":
        precision = "bfloat16" if machine.gpu else resolve("auto", torch.device("cpu"))
        recipe = recipe.override(Overrides(precision=precision))
    if recipe.training.parts % machine.devices == 0:    # one device's parts, whose sums it holds
        batch, parts = (number // machine.devices for number in (recipe.training.batch, recipe.training.parts))
        recipe = recipe.override(Overrides(batch=batch, parts=parts))
    memory = TensorMemory()
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder, memory, without_values(machine.gpu):
        weights = FakeWeights()
        weights.give(teacher.network)
        if teacher.beside is not None:      # its own copy: the next rehearsal has other weights
            call = teacher.adapter.call
            side = call.side.attached(weights.give(copy.deepcopy(teacher.beside)))
            teacher.adapter = dataclasses.replace(teacher.adapter, call=dataclasses.replace(call, side=side))
        options = RunOptions(
            images_for(recipe), folder=Path(folder), keep_checkpoints=False, averages_apart=machine.averages_apart,
            gradient_checkpointing=machine.gradient_checkpointing,
        )  # fmt: skip
        run = _Rehearsal(recipe, teacher, options, memory, states, machine.devices)
        run.student()
    return [run.found[index] for index in sorted(run.found)]


def images_for(recipe: Recipe) -> int:
    """Samples of a run whose rounds have the cycles that a rehearsal is in the middle of."""
    return recipe.images_for(_CYCLES * max(sum(own.turns.values()) for own in recipe.rounds))


class _Rehearsal(Distillation):
    """A run whose rounds are measured in the place of being trained."""

    def __init__(self, recipe: Recipe, teacher: Denoiser, options: RunOptions, memory: TensorMemory, states: int,
                 devices: int):  # fmt: skip
        self._labels = teacher.num_classes
        super().__init__(recipe, teacher, options, data=Samples(teacher.sample_shape, self._labels))
        self.found: dict[int, RoundMemory] = {}
        self._memory, self._states, self._devices = memory, states, devices

    def _run(self, index: int, on_progress: Any) -> Student:
        trainer, sampler = self.trainer(index)
        self.found[index] = _measured(index, trainer, self._memory, self._devices)
        student = self._ended(index, trainer, trainer.untrained(), sampler)
        del trainer
        gc.collect()
        return student

    def _pairs(self, index: int, teacher: Denoiser) -> PairSource:
        kept = self.recipe.rounds[index].needs.states
        count = self._states if kept == "all" else len(kept or ())
        return Outputs(teacher.sample_shape, self._labels, teacher.process.grid(count).tolist() if count else ())


def _measured(index: int, trainer: RoundTrainer, memory: TensorMemory, devices: int) -> RoundMemory:
    """Takes a step in every role's turn, and looks at what it takes; tells it of each of so many devices."""
    figures, begun = Figures(trainer.where), _CYCLES // 2 * len(trainer.cycle)
    first = {role: begun + trainer.cycle.index(role) for role in trainer.cycle}
    for optimiser in trainer.state.optimisers.values():
        optimiser.begin()
    roles, apart = _roles(trainer, _Rows(trainer, 1))
    found = []
    for role, step in first.items():
        rest = memory.live
        memory.restart()
        trainer.turn(step, figures)
        working = memory.peak - rest
        gradients = next(one.gradients for one in roles if one.role == role)
        found.append((working, role, max(working - gradients, 0), rest))
    _, role, activations, rest = max(found)
    known = sum(one.weights + one.moments + one.average for one in roles)
    other = max(rest - known - apart, 0)
    sizes = [parameter.numel() for parameter in trainer.state.optimisers[role].parameters]
    sent = 2 * 4 * in_transit(sizes) if devices > 1 else 0      # once a backward pass is over, as much as the others'
    whole = RoundMemory(round=index + 1, roles=tuple(roles), activations=max(activations, sent), turn=role,
                        other=other, apart=apart, checkpoint=_checkpoint(trainer, _Rows(trainer, 1)))  # fmt: skip
    if devices == 1:
        return whole
    rows = _Rows(trainer, devices)
    held, away = _roles(trainer, rows)
    shards = RoundMemory(round=index + 1, roles=tuple(held), activations=activations, turn=role,
                         other=other + rows.gathered(role), apart=away,
                         checkpoint=_checkpoint(trainer, rows))  # fmt: skip
    return whole.model_copy(update={"shards": shards})


def _checkpoint(trainer: RoundTrainer, rows: _Rows) -> int:
    """Bytes of the state that a process copies for a checkpoint."""
    state = trainer.state
    live = trained_state(state.networks["student"], keep_vars=True)
    held = [(parameter, parameter) for optimiser in state.optimisers.values() for parameter in optimiser.stepped]
    held += [(value, parameter) for optimiser in state.optimisers.values() for parameter in optimiser.stepped
             for value in optimiser.optimiser.state[parameter].values() if value.shape == parameter.shape]
    held += [(value, live[name]) for kept in (state.average.weights, state.copies.state())
             for name, value in kept.items()]  # fmt: skip
    elsewhere = sum(_bytes(value) * (1 - rows.share(parameter)) for value, parameter in held)
    return round(sum(map(_bytes, state.tensors().values())) - elsewhere)


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


class _Rows:
    """What each of `devices` holds of the tensors of a round whose networks are in shards."""

    def __init__(self, trainer: RoundTrainer, devices: int):
        self._networks, self._devices = trainer.state.networks, devices
        self._known = {id(p) for network in self._networks.values() for p in network.parameters() if p.ndim}

    def share(self, parameter: Tensor) -> float:
        """Of a parameter, its gradient, moments and average: 1 for that of a head, which each device holds whole."""
        if id(parameter) not in self._known or self._devices == 1:
            return 1.0
        return -(-len(parameter) // self._devices) / len(parameter)

    def gathered(self, turn: str) -> int:
        """Bytes that are whole for a while: the largest block at its call and the next one; of the role in its turn the
        block's gradients too, as they come and as they are sent."""
        largest = {role: _largest_unit(network.network) for role, network in self._networks.items()
                   if any(True for _ in network.parameters())}  # fmt: skip
        return 2 * max(largest.values(), default=0) + 2 * largest.get(turn, 0)


def _largest_unit(network: nn.Module) -> int:
    """Bytes of the parameters that are gathered together, where they are most."""
    seen: set[int] = set()
    found = [0]
    for unit in units(network):
        own = {id(parameter): parameter for parameter in unit.parameters() if id(parameter) not in seen}
        found.append(sum(map(_bytes, own.values())))
        seen |= own.keys()
    return max(found)


def _roles(trainer: RoundTrainer, rows: _Rows) -> tuple[list[RoleMemory], int]:
    """The memory of each role, tensors that several share with the first of them; and bytes that lie apart, on the CPU
    where the run is on a GPU."""
    state, seen, found = trainer.state, storages(trainer.placement.kept), []
    apart = sum(seen.values())

    def bytes_of(tensors: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Of tensors, each with the parameter that it belongs to."""
        total = 0.0
        for tensor, parameter in tensors:
            for key, size in storages([tensor]).items():
                total += 0 if key in seen else size * rows.share(parameter)
                seen[key] = size
        return round(total)

    live = trained_state(state.networks["student"], keep_vars=True)
    average = bytes_of((value, live[name]) for name, value in state.average.weights.items())
    if trainer.options.averages_apart:
        copies = ((value, value) for network in state.copies.networks.values()
                  for value in trained_state(network, keep_vars=True).values())  # fmt: skip
        apart, average = apart + average + bytes_of(copies), 0
    order = sorted(state.networks, key=lambda role: (role != "teacher", role != "student", role))
    for role in [*order, *(role for role in state.optimisers if role not in state.networks)]:
        optimiser = state.optimisers.get(role)
        modules: list[nn.Module] = list(optimiser.modules.values()) if optimiser else []
        modules += [state.networks[role]] if role in state.networks else []
        modules += [one for one in (getattr(state.networks.get(role), "beside", None),) if one is not None]
        trained = optimiser.stepped if optimiser else []
        weights = bytes_of((value, value) for module in modules for value in (*module.parameters(), *module.buffers()))
        moments = bytes_of((plain, parameter) for parameter in trained
                           for value in optimiser.optimiser.state[parameter].values()
                           for plain in parts_of(value).values())  # fmt: skip
        found.append(RoleMemory(
            role=role, trained=sum(one.numel() for one in trained), weights=weights,
            gradients=round(sum(one.numel() * one.element_size() * rows.share(one) for one in trained)),
            moments=moments, average=average if role == "student" else 0,
        ))  # fmt: skip
    return found, apart
