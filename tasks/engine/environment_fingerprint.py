"""What bit-equality is claimed under: device, libraries, processor capability. Recorded in every manifest."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

LIBRARIES = ("fewstep", "torch", "diffusers", "numpy", "safetensors", "scikit-learn", "scipy", "pillow", "dvc")


@cache
def fingerprint() -> dict:
    """The machine as far as it decides the last bits of a result. Imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
    }


@cache
def versions() -> dict:
    """Versions of Python and of the libraries that make outputs."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
