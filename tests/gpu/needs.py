"""What a test of the marker `gpu` needs. FEWSTEP_TEST_DEVICE=cpu runs the same bodies on the CPU, to try them out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("FEWSTEP_TEST_DEVICE", "cuda")
GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(),
                                           reason="torch.cuda.is_available() says that there is no GPU here")]
TWO_GPUS = pytest.mark.skipif(DEVICE == "cuda" and torch.cuda.device_count() < 2,
                              reason="two processes by nccl need two GPUs")  # fmt: skip


def devices(project: Path) -> dict[str, set[str]]:
    """By stage where its published output was computed."""
    found = {}
    for path in sorted((project / "data").glob("*/manifest.json")):
        manifest = json.loads(path.read_bytes())
        found[manifest["stage"]] = {one["device"] for one in manifest["fingerprint"]}
    return found
