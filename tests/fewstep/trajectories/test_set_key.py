"""The digest of the code that makes a set covers all that decides its bytes."""

from fewstep.trajectories.set_key import CODE
from fewstep.util.import_closure import ROOT, closure

OF_NO_BYTE = {"__init__.py", "data/__init__.py", "conditions.py", "configuration.py", "errors.py"}


def test_every_module_that_making_a_set_loads_is_in_the_digest():
    package = ROOT / "fewstep"
    parts = [package / name for name in CODE]
    files = [file for part in parts for file in (part.rglob("*.py") if part.is_dir() else [part])]
    covered = {file.relative_to(package).as_posix() for file in files}
    loaded = {path.removeprefix("fewstep/") for path in closure("fewstep.trajectories.generate")}
    assert len(loaded) > 20 and loaded - covered <= OF_NO_BYTE
