"""Derivatives of a network along a direction, by forward-mode differentiation: one pass gives value and derivative."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import group_norm
from torch.overrides import TorchFunctionMode


class _Contiguous(TorchFunctionMode):
    """Group normalisation of dense tensors only: its forward derivative fails on any other memory layout."""

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        if function is group_norm:
            arguments = (arguments[0].clone(memory_format=torch.contiguous_format), *arguments[1:])
        return function(*arguments, **(options or {}))


def jvp(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor], *, twice: bool = False
) -> tuple[Tensor, Tensor]:
    """(f(p), sum_i df/dp_i . d_i) at the primals p along the tangents d: both of the shape of f(p).

    Computed without autocast, in the primals' own precision: a derivative in bfloat16 is noise. Attention takes its
    plain mathematical form, the only one with a forward derivative. The value carries a graph to the parameters as in
    an ordinary call; the derivative carries none, as every objective that needs it stops the gradient there, and what
    it would have kept for a backward pass is freed at once.

    Args:
        function: of as many tensors as there are primals, to one tensor.
        primals, tangents: pairs of equal shape and dtype, any shapes, floating point.
        twice: the derivative without a graph, then the value by an ordinary call: what a network under gradient
            checkpointing needs, which cannot compute a differentiated pass anew. Equal but for rounding.
    """
    device = primals[0].device.type
    if twice:
        with torch.no_grad():
            _, derivative = jvp(function, primals, tangents)
        with torch.autocast(device, enabled=False):
            return function(*primals), derivative
    with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH), _Contiguous():
        value, derivative = torch.func.jvp(function, tuple(primals), tuple(tangents))
    return value, derivative.detach()
