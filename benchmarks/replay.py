"""A minimal loop for any recipe: the network calls of its own steps, recorded once and replayed with nothing around.

Recorded are the calls of every network and head in every step: inputs, whether there was a graph to the weights
or the input, forward-mode derivatives, gradients that are differentiated again. The replay makes the same calls on the
same inputs, one backward pass of the squared outputs, clipping, the optimiser's step and the moving average: what a
loop written by hand would do, with reading data, drawing randomness and the objective's own arithmetic left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from fewstep.objectives.common.derivatives import jvp
from fewstep.training import RoundTrainer
from fewstep.training.loss_meter import Figures


@dataclass
class Call:
    """One call of a module: the tensors it was given, and what was to be differentiated."""

    module: nn.Module
    arguments: tuple
    options: dict
    graph: bool
    inputs: list[bool]
    dual: list[bool]
    """Which of the tensors a forward-mode derivative moves along."""
    used: list[str]
    """Of "output" and "middle": whence gradients came; what only the middle block's features asked for stops there."""
    whole: bool = False
    """Whether it went on to its end; one of which features alone were wanted stopped behind the middle block."""
    twice: bool = False
    """Whether the gradient to its input is differentiated again (a gradient penalty)."""

    def again(self) -> list[Tensor]:
        """Makes the call; returns what is to be differentiated."""
        middle: list[Tensor] = []
        leaves, structure = tree_flatten((self.arguments, self.options))
        tensors = [k for k, value in enumerate(leaves) if isinstance(value, Tensor)]
        for k, wanted in zip(tensors, self.inputs, strict=True):
            leaves[k] = leaves[k].detach().requires_grad_(wanted)
        moving = [k for k, dual in zip(tensors, self.dual, strict=True) if dual]

        def call(*moved: Tensor) -> list[Tensor]:
            here = dict(zip(moving, moved, strict=True))
            arguments, options = tree_unflatten([here.get(k, value) for k, value in enumerate(leaves)], structure)
            return _floating(self.module(*arguments, **options))

        primals = [leaves[k] for k in moving]
        found: list[Tensor] = []
        with torch.set_grad_enabled(self.graph):
            if moving:
                found = [jvp(lambda *moved: call(*moved)[0], primals, [torch.ones_like(p) for p in primals])[0]]
            else:
                with _heard(self.module, None if "output" in self.used else middle, stop=not self.whole):
                    found = call()
        outputs = [value for value in (found if "output" in self.used else []) + middle if value.requires_grad]
        if not self.twice:
            return outputs
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        return outputs + list(torch.autograd.grad(_loss(outputs), given, create_graph=True))


class Minimal:
    """The replay of a trainer's whole run, or of these steps of it, which it takes once to record."""

    def __init__(self, trainer: RoundTrainer, steps: range | None = None):
        self.trainer = trainer
        roles = {k: trainer.cycle[k % len(trainer.cycle)] for k in steps or range(trainer.steps)}
        self.turns = [(role, self._recorded(k, role)) for k, role in roles.items()]
        self.optimisers = {role: self._optimiser(own.parameters) for role, own in trainer.state.optimisers.items()}
        self.student = [p for p in trainer.state.networks["student"].parameters() if p.is_floating_point()]
        self.average = [copy.deepcopy(p.detach()) for p in self.student]

    def run(self) -> None:
        """Every step once."""
        trained = None
        for role, calls in self.turns:
            if role != trained:
                self.trainer.state.train_only(role)
                trained = role
            outputs = [value for call in calls for value in call.again()]
            _loss(outputs).backward()
            weights, optimiser = self.optimisers[role]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if role == "student":
                with torch.no_grad():
                    torch._foreach_lerp_(self.average, self.student, 0.002)

    @staticmethod
    def _optimiser(weights: list[nn.Parameter]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        return weights, torch.optim.AdamW(weights, lr=1e-6, betas=(0.9, 0.99), fused=True)

    def _recorded(self, step: int, role: str) -> list[Call]:
        calls: list[Call] = []
        self.trainer.state.train_only(role)
        with _listening(self._modules(), calls):
            self.trainer._step(step, role, Figures("the benchmark"))
        return calls

    def _modules(self) -> list[nn.Module]:
        networks = [denoiser.network for denoiser in self.trainer.state.networks.values()]
        heads = [head for term in self.trainer.terms for head in term.heads.values()]
        inner = [module for head in heads for module in (head.values() if isinstance(head, nn.ModuleDict) else [head])]
        return list({id(module): module for module in (*networks, *inner)}.values())


@contextmanager
def _listening(modules: list[nn.Module], calls: list[Call]) -> Iterator[None]:
    differentiate, again = torch.autograd.grad, False

    def differentiated(*arguments: Any, **options: Any) -> Any:
        nonlocal again
        again = options.get("create_graph", False)
        try:
            return differentiate(*arguments, **options)
        finally:
            again = False

    def reached(call: Call, what: str) -> None:
        call.used.append(what)
        call.twice |= again

    with ExitStack() as hooks:
        hooks.enter_context(patch.object(torch.autograd, "grad", differentiated))
        for module in modules:

            def heard(module: nn.Module, arguments: tuple, options: dict) -> None:
                dual = [_unwrapped(v) for v in tree_leaves((arguments, options)) if isinstance(v, Tensor)]
                plain = tree_map(lambda v: _unwrapped(v)[0] if isinstance(v, Tensor) else v, (arguments, options))
                flags = [value.requires_grad and value.is_floating_point() for value, _ in dual]
                graph = torch.is_grad_enabled() and (any(flags) or any(p.requires_grad for p in module.parameters()))
                kept = tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, plain)
                moving = [wrapped and value.is_floating_point() for value, wrapped in dual]
                calls.append(Call(module, *kept, graph, flags, moving, []))

            def noted(module: nn.Module, arguments: tuple, output: Any, of: nn.Module = module, what: str = "output"):
                call = next(call for call in reversed(calls) if call.module is of)
                call.whole |= what == "output"
                for value in _floating(output):
                    if _unwrapped(value)[1]:
                        reached(call, what)
                    elif value.requires_grad:
                        value.register_hook(lambda _gradient, call=call: reached(call, what))

            hooks.callback(module.register_forward_pre_hook(heard, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(noted).remove)
            middle = getattr(module, "mid_block", None)
            if middle is not None:
                inner = partial(noted, of=module, what="middle")
                hooks.callback(middle.register_forward_hook(inner).remove)
        yield


class _Heard(Exception):
    """The middle block was called."""


@contextmanager
def _heard(module: nn.Module, outputs: list[Tensor] | None, stop: bool) -> Iterator[None]:
    """Collects what the middle block makes, where `outputs` is a list; with `stop` the call, and the context, end
    there."""
    middle = getattr(module, "mid_block", None)
    if outputs is None or middle is None:
        yield
        return

    def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        outputs.append(output)
        if stop:
            raise _Heard

    handle = middle.register_forward_hook(keep)
    try:
        yield
    except _Heard:
        pass
    finally:
        handle.remove()


def _loss(outputs: list[Tensor]) -> Tensor:
    return sum(value.float().square().mean() for value in outputs)


def _unwrapped(value: Tensor) -> tuple[Tensor, bool]:
    """The tensor itself, and whether it was one of a forward-mode derivative."""
    wrapped = False
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value, wrapped = torch._C._functorch.get_unwrapped(value), True
    return value, wrapped


def _floating(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output of any structure."""
    values = output.values() if hasattr(output, "values") and not isinstance(output, Tensor) else [output]
    return [v for v in tree_leaves(list(values)) if isinstance(v, Tensor) and v.is_floating_point()]
