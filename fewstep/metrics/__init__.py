"""Distances between samples and reality, each with the protocol it was measured under."""

import importlib

_HOMES = {
    "Protocol": "protocol", "ProtocolsDiffer": "protocol", "Value": "protocol", "ensure_comparable": "protocol",
    "Moments": "distances.moments", "frechet_bias": "distances.frechet", "frechet_distance": "distances.frechet", "frechet_extrapolated": "distances.frechet",
    "frechet_of_blocks": "distances.frechet", "kernel_distance": "distances.kernel_distance", "kernel_distance_difference": "distances.kernel_distance",
    "Cubic": "distances.kernels", "Gaussian": "distances.kernels", "precision_recall": "distances.nearest_neighbours", "manifolds": "distances.nearest_neighbours",
    "memorisation": "distances.nearest_neighbours", "nearest_distances": "distances.nearest_neighbours", "agreement": "comparison.teacher_agreement",
    "diversity": "distances.diversity", "equivalent_evaluations": "comparison.equal_evaluations", "sliced_wasserstein": "distances.sliced",
    "Extractor": "extractors.extractor", "load_extractor": "extractors.extractor", "Sampling": "protocol", "Examination": "evaluator",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Loads a metric when it is first asked for: protocols are read where no torch is wanted."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
