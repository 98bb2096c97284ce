"""The identity of a set: a hash of everything that determines its bytes, except how many samples there are."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewstep.util.hashing import canonical_json, sha256_file, sha256_json

_PACKAGE = Path(__file__).parent.parent
CODE = ("data/records", "diffusion", "networks", "teachers", "trajectories", "util")


@functools.cache
def code_digest() -> str:
    """SHA-256 over the source files of fewstep that take part in making a set."""
    found = hashlib.sha256()
    for name in CODE:
        path = _PACKAGE / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
        for file in files:
            found.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode())
            found.update(bytes.fromhex(sha256_file(file)))
    return found.hexdigest()


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
