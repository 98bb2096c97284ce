"""Distances between samples and reality, each with the protocol it was measured under."""

import importlib

_HOMES = {
    "Protocol": "protocol", "ProtocolsDiffer": "protocol", "Value": "protocol", "ensure_comparable": "protocol",
    "Moments": "moments", "frechet_bias": "frechet", "frechet_distance": "frechet", "frechet_extrapolated": "frechet",
    "frechet_of_blocks": "frechet", "kernel_distance": "kernel", "kernel_distance_difference": "kernel",
    "Cubic": "kernels", "Gaussian": "kernels", "precision_recall": "neighbours", "manifolds": "neighbours",
    "memorisation": "neighbours", "nearest_distances": "neighbours", "agreement": "same_noise",
    "diversity": "diversity", "equivalent_evaluations": "equivalence", "sliced_wasserstein": "sliced",
    "Extractor": "features", "load_extractor": "features", "Sampling": "protocol", "Examination": "examination",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Loads a metric when it is first asked for: protocols are read where no torch is wanted."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
