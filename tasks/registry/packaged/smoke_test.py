"""Checks that a registered folder is a model: finite weights, from which torch and diffusers alone draw by class.

The second is checked in a child process in which this project and its orchestration cannot be imported and from whose
environment secrets are absent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_SECONDS = 600
_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def problems(folder: Path) -> list[str]:
    """Why the exported pipeline in `folder` should not be used; empty when it is sound."""
    return not_finite(folder) or alone(folder)


def not_finite(folder: Path) -> list[str]:
    """Tensors of the folder's safetensors files with NaN or infinite values."""
    import torch  # loads torch
    from safetensors import SafetensorError, safe_open

    problems = []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                        problems.append(f"weights are NaN or infinite: {name} in {path.relative_to(folder)}")
        except SafetensorError as error:
            problems.append(f"{path.relative_to(folder)} is no readable safetensors file ({error})")
    return problems


def alone(folder: Path) -> list[str]:
    """Problems of a process with torch and diffusers only that loads the folder and draws two images per class."""
    script = Path(__file__).with_name("smoke_test_child.py")
    with tempfile.TemporaryDirectory(prefix="fewstep-alone-") as scratch:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        try:
            done = subprocess.run([sys.executable, "-I", str(script), str(folder)], capture_output=True, text=True,
                                  cwd=scratch, env=environment, timeout=_SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired:
            return [f"it did not load and sample in a process of its own within {_SECONDS} s"]
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])["problems"]
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [f"it does not load and sample in a process with torch and diffusers only: {said[:300]}"]
