"""Outputs of stages that registered versions came from: what must be kept for as long as these versions are there."""

from __future__ import annotations

from tasks.registry.model_registry import Registry


def registered_outputs(registry: Registry) -> tuple[frozenset[str], frozenset[str]]:
    """Keys, and digests of manifests, of the outputs of all versions of all models.

    Raises DataDiffers for a version whose tags are damaged, NotAvailable where the registry does not answer.
    """
    keys, digests = set(), set()
    for model in registry.models():
        for version in registry.versions(model):
            told = version.provenance
            keys |= {output.key for output in told.stages.values()}
            digests |= {output.digest for output in told.stages.values()}
            digests |= {told.evaluation, told.student, told.teacher, told.trajectories, told.shards}
    return frozenset(keys), frozenset(digests) - {""}
