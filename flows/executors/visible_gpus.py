"""The GPUs that this process may use, by the names that another process is told of them."""

from __future__ import annotations

import os


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of them."""
    import torch  # whoever has work for them has loaded it

    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]
