"""A long search of every fuzzer (`make test-slow`); FEWSTEP_FUZZ_EXAMPLES says how long. What it finds becomes a test.
"""

import os
import subprocess
import sys

import pytest

from tests.closure import ROOT

FUZZERS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*_fuzz.py"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FUZZERS)
def test_a_long_search(name):
    environment = {"FEWSTEP_FUZZ_EXAMPLES": "2000" if "dvc_lock" not in name else "200", **os.environ}
    done = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-q", name], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
