"""When a network is compiled (torch.compile with inductor) where the settings leave it open: one rule. No torch here.

A training is not: on two CPU cores its steps are 1.02 to 1.10 times as fast, and a graph takes minutes to compile
(docs/how-to/memory-and-speed.md).
"""

from __future__ import annotations

import importlib.util
import os
import shutil

LONG_ENOUGH = 6e13
"""Floating-point operations of all that is sampled, as the settings tell them, from which compiling pays: 10 to 25
minutes of one CPU core, of which it saves a fifth to a quarter, against one to two minutes for compiling."""


def pays(operations: float) -> bool:
    """Whether sampling that takes so many floating-point operations is long enough to compile the network for it."""
    return operations >= LONG_ENOUGH


def missing(device_type: str) -> str | None:
    """What inductor lacks on this machine to compile for such a device, in words; None where it has all."""
    if device_type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
    if importlib.util.find_spec("triton") is None:
        return "triton"
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return None if any(map(shutil.which, compilers)) else f"a C compiler ({' or '.join(compilers)})"
