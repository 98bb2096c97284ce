"""Python imports this at its start: GPUs are there before torch, which asks once, and torch is told when it comes."""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any


class Told(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torch as others do, loads the GPUs before it, and says to its Python parts what a driver would."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        self.real, found.loader = found.loader, self
        return found

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        gpus = ctypes.CDLL(os.environ["EMULATED_GPU"], ctypes.RTLD_GLOBAL)
        module.__spec__.loader = module.__loader__ = self.real
        self.real.exec_module(module)
        say(module, gpus)


class Stream:
    """Of the one that there is."""

    device, stream_id = None, 0

    def __init__(self, *_: Any, **__: Any):
        pass

    def _nothing(self, *_: Any, **__: Any) -> "Stream":
        return self

    record = wait = wait_stream = wait_event = record_event = synchronize = _nothing

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def is_capturing(self) -> bool:
        """Whether a graph of kernels is recorded."""
        return False


def say(torch: ModuleType, gpus: ctypes.CDLL) -> None:
    """What the parts of torch that are written in Python would ask a driver."""
    cuda, count, used = torch.cuda, int(os.environ["EMULATED_GPUS"]), [0]

    def set_device(device: Any) -> None:
        used[0] = device if isinstance(device, int) else torch.device(device).index or 0
        gpus.use_device(used[0])

    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: count, lambda: used[0]
    cuda._lazy_init, cuda.is_initialized = lambda: None, lambda: True
    cuda.memory_allocated, cuda.max_memory_allocated = lambda device=None: 0, lambda device=None: 0
    cuda.get_device_name = lambda device=None: "emulated GPU"
    cuda.is_bf16_supported = lambda including_emulation=True: True
    cuda.set_device, cuda.synchronize = set_device, lambda device=None: None
    cuda.Stream, cuda.Event = Stream, type("Event", (Stream,), {})
    cuda.current_stream, cuda.default_stream = lambda device=None: Stream(), lambda device=None: Stream()
    cuda.stream = lambda stream: nullcontext()
    torch.accelerator.current_stream = cuda.current_stream
    torch.version.cuda = "0"
    torch.Tensor.pin_memory = lambda tensor, device=None: tensor
    torch.Tensor.record_stream = lambda tensor, stream: None
    torch.Tensor.__deepcopy__ = copied(torch, torch.Tensor.__deepcopy__)
    torch.nn.Parameter.__deepcopy__ = copied(torch, torch.nn.Parameter.__deepcopy__)
    resize = torch.UntypedStorage.resize_
    torch.UntypedStorage.resize_ = lambda storage, size: storage if storage.is_cuda else resize(storage, size)
    begin = torch.distributed.init_process_group

    def init_process_group(backend: str, *arguments: Any, **named: Any) -> None:
        begin(backend.replace("nccl", "gloo"), *arguments, **named)

    torch.distributed.init_process_group = init_process_group


def copied(torch: ModuleType, plain: Callable) -> Callable:
    """`copy.deepcopy` without a storage in Python, of which there is none for the device in a build for CPUs."""
    def made(tensor: Any, memo: dict) -> Any:
        if not tensor.is_cuda:
            return plain(tensor, memo)
        if id(tensor) not in memo:
            found = tensor.detach().clone(memory_format=torch.preserve_format)
            if isinstance(tensor, torch.nn.Parameter):
                found = torch.nn.Parameter(found, tensor.requires_grad)
            memo[id(tensor)] = found.requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    return made


if "EMULATED_GPU" in os.environ:
    sys.meta_path.insert(0, Told())
