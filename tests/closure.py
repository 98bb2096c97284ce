"""What a stage can import: the closure over all packages, without what every stage is run through."""

from __future__ import annotations

import functools

from fewstep.closure import ROOT, imports
from fewstep.closure import closure as closure_of

__all__ = ["ROOT", "closure", "imports"]

MACHINERY = frozenset({   # it decides whether and where a stage runs, never which bytes
    "fewstep/__init__.py", "fewstep/configuration.py", "fewstep/errors.py", "tasks/__init__.py", "tasks/files.py",
    "tasks/manifest.py",
})
closure = functools.partial(closure_of, packages=("fewstep", "tasks", "flows"), apart=MACHINERY)
