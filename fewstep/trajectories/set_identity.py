"""The identity of a set: a hash of everything that determines its bytes, except how many samples there are."""

import functools
from collections.abc import Mapping, Sequence

from fewstep.util.hashing import canonical_json, sha256_json
from fewstep.util.source_code import APART, SourceTree


@functools.cache
def code_digest() -> str:
    """Digest of the code of fewstep that making a set may run (fewstep.util.source_code)."""
    return SourceTree().code(["fewstep.trajectories.generate"], apart=APART).digest


def set_key(fields: Mapping, backends: Sequence[Mapping]) -> str:
    """SHA-256 of what determines a set's bytes.

    Args:
        fields: as made by :func:`fewstep.trajectories.set_plan.plan_set`: teacher, process, solver, steps, times,
            guidance, condition source, seed, precision, shape, states kept, record and shard size, compile mode, code.
        backends: the fingerprints (:mod:`fewstep.util.fingerprint`) that its records were made under; one unless it
            was continued on another machine.
    """
    unique = sorted({canonical_json(dict(one)) for one in backends})
    return sha256_json({"fields": dict(fields), "backends": unique})
