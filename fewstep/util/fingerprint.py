"""What the bits of a result depend on besides code, settings and inputs: libraries, device, processor, switches.

Equal arithmetic under equal fingerprints gives equal bits: manifests, checkpoints, trajectory sets, caches record it.
"""

from __future__ import annotations

import importlib.metadata
import platform

import torch

_CPU_FEATURES = ("avx", "amx", "fma", "sse4", "f16c")


def fingerprint(device: torch.device | str, threads: int | None = None) -> dict[str, str | int | bool | None]:
    """The fingerprint of computing on `device`, as a JSON object.

    Args:
        device: where the work is done.
        threads: that one operation uses on a CPU, by default as many as now; None in the result for a GPU.
    """
    device = torch.device(device)
    result = {
        "torch": torch.__version__,
        "diffusers": importlib.metadata.version("diffusers"),    # from its metadata: importing it takes seconds
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": " ".join(sorted(name for name, there in torch.cpu.get_capabilities().items()
                                        if there is True and name.startswith(_CPU_FEATURES))),
        "device": device.type,
        "threads": (threads or torch.get_num_threads()) if device.type == "cpu" else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        result |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        }
    return result
