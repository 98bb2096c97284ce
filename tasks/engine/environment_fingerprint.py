"""Under which device, libraries and processor a manifest claims equality of bits."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

LIBRARIES = ("fewstep", "torch", "diffusers", "numpy", "safetensors", "scikit-learn", "scipy", "pillow", "dvc")


@cache
def fingerprint() -> dict:
    """The fingerprint (fewstep.util.fingerprint) of the device that the stages run on."""
    from fewstep.util import fingerprint as fingerprints  # torch
    from fewstep.util.device import default_device

    return fingerprints.fingerprint(default_device())


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
