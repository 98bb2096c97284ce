"""Runs a module with the GPU: see the package."""

import ctypes
import runpy
import sys
from collections.abc import Callable

from tests.emulated_gpu.library import compiled

ctypes.CDLL(str(compiled()), ctypes.RTLD_GLOBAL)    # before torch, which asks once what GPUs there are

import torch  # noqa: E402


def say_it_is_there() -> None:
    """What the parts of torch that are written in Python would ask a driver."""
    cuda = torch.cuda
    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: 1, lambda: 0
    cuda._lazy_init, cuda.is_initialized = lambda: None, lambda: False
    cuda.get_device_name = lambda device=None: "emulated GPU"
    cuda.is_bf16_supported = lambda including_emulation=True: True
    cuda.set_device, cuda.synchronize = lambda device: None, lambda device=None: None
    torch.version.cuda = "0"
    torch.Tensor.pin_memory = lambda tensor, device=None: tensor
    torch.Tensor.__deepcopy__ = copied(torch.Tensor.__deepcopy__)
    torch.nn.Parameter.__deepcopy__ = copied(torch.nn.Parameter.__deepcopy__)


def copied(plain: Callable) -> Callable:
    """`copy.deepcopy` without a storage in Python, of which there is none for the device in a build for CPUs."""
    def made(tensor: torch.Tensor, memo: dict) -> torch.Tensor:
        if not tensor.is_cuda:
            return plain(tensor, memo)
        if id(tensor) not in memo:
            found = tensor.detach().clone(memory_format=torch.preserve_format)
            if isinstance(tensor, torch.nn.Parameter):
                found = torch.nn.Parameter(found, tensor.requires_grad)
            memo[id(tensor)] = found.requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    return made


if __name__ == "__main__":
    say_it_is_there()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
