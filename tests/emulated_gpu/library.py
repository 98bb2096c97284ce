"""Compiles device.cpp, for half a minute at the first time in an environment.

No torch is imported here: the GPU must be there before it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "device.cpp"
TORCH = Path(importlib.util.find_spec("torch").origin).parent


def compiled() -> Path:
    """The shared library."""
    made_of = SOURCE.read_bytes() + importlib.metadata.version("torch").encode()
    found = Path(sys.prefix) / f"emulated_gpu-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not found.exists():
        own = found.with_suffix(f".{os.getpid()}")
        headers = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
        libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
        command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", *headers, str(SOURCE), *libraries, "-o", str(own)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr[-3000:]}")
        own.replace(found)
    return found
