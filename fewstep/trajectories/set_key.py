"""The identity of a set: a hash of everything that determines its bytes, except how many samples there are."""

import functools
import hashlib
import platform
from collections.abc import Mapping, Sequence

import diffusers
import torch

from fewstep.util.io import canonical_json
from fewstep.util.source_code import APART, SourceTree

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
    """Digest of the code of fewstep that making a set may run (fewstep.util.source_code)."""
    return SourceTree().code(["fewstep.trajectories.generate"], apart=APART).digest


def set_key(fields: Mapping, backends: Sequence[Mapping]) -> str:
    """SHA-256 of what determines a set's bytes.

    Args:
        fields: as made by :func:`fewstep.trajectories.set_plan.plan_set`: teacher, process, solver, steps, times,
            guidance, condition source, seed, precision, shape, states kept, record and shard size, compile mode, code.
        backends: every backend that made records of it; one unless it was continued on another machine.
    """
    unique = sorted({canonical_json(dict(one)) for one in backends})
    return hashlib.sha256(canonical_json({"fields": dict(fields), "backends": unique}).encode()).hexdigest()
