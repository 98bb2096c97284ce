"""What a stage can import: the closure over all packages, without what every stage is run through."""

from __future__ import annotations

import functools

from fewstep.util.import_closure import ROOT, imports
from fewstep.util.import_closure import closure as closure_of

__all__ = ["ROOT", "closure", "imports"]

MACHINERY = frozenset({   # it decides whether and where a stage runs, never which bytes
    "fewstep/__init__.py", "fewstep/util/config.py", "fewstep/util/errors.py", "tasks/__init__.py", "tasks/storage/file_io.py",
    "tasks/engine/manifest.py",
})
closure = functools.partial(closure_of, packages=("fewstep", "tasks", "flows"), apart=MACHINERY)
