"""The identity of a set: a hash of everything that determines its bytes, except how many samples there are."""

import functools
import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import diffusers
import torch

from fewstep.util.io import canonical_json

_PACKAGE = Path(__file__).parent.parent
CODE = ("data/records", "diffusion", "networks", "teachers", "trajectories", "util/io.py")
_CPU_FEATURES = ("avx", "amx", "fma", "sse4", "f16c")


def backend(device: torch.device | str = "cpu") -> dict:
    """What makes equal arithmetic give equal bits: libraries, device and its capability.

    Returns:
        JSON object; sets made under equal ones are equal bit for bit.
    """
    device = torch.device(device)
    result = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": platform.machine(),
        "device": device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": sorted(
            name
            for name, there in torch.cpu.get_capabilities().items()
            if there is True and name.startswith(_CPU_FEATURES)
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        result |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return result


@functools.cache
def code_digest() -> str:
    """SHA-256 over the source files of fewstep that take part in making a set."""
    found = hashlib.sha256()
    for name in CODE:
        path = _PACKAGE / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
        for file in files:
            found.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def set_key(fields: Mapping, backends: Sequence[Mapping]) -> str:
    """SHA-256 of what determines a set's bytes.

    Args:
        fields: as made by :func:`fewstep.trajectories.set_plan.plan_set`: teacher, process, solver, steps, times,
            guidance, condition source, seed, precision, shape, states kept, record and shard size, compile mode, code.
        backends: every backend that made records of it; one unless it was continued on another machine.
    """
    unique = sorted({canonical_json(dict(one)) for one in backends})
    return hashlib.sha256(canonical_json({"fields": dict(fields), "backends": unique}).encode()).hexdigest()
