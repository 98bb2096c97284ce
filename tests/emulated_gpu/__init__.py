"""GPUs that are not there: tensors of the device "cuda", with values, in the memory of the CPU (device.cpp).

    environment()   # for a process, and for those that it starts: they find EMULATED_GPUS of them, by default one

What runs on them runs as on GPUs as far as placement goes: a tensor that stayed on the CPU meets those of the device in
an error. Speed, memory, streams and bfloat16's own kernels are not emulated; nccl's part is gloo's.
"""

from __future__ import annotations

import os
from pathlib import Path

SITE = Path(__file__).parent / "site"


def environment(given: dict[str, str], gpus: int = 1) -> dict[str, str]:
    """The environment `given` with GPUs in it: Python loads them at its start (site/sitecustomize.py)."""
    from tests.emulated_gpu.library import compiled

    paths = [str(SITE), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths), "EMULATED_GPUS": str(gpus), "EMULATED_GPU": str(compiled()),
            "TORCH_CPP_LOG_LEVEL": "ERROR"}     # that kernels of nccl are replaced is no news
