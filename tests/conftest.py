"""Settings that hold for every test: no telemetry, no hub, one thread per operation."""

import os
import tempfile

import pytest

from tests.faults.rows import seen  # noqa: F401  (fixtures of every test)
from tests.first_start import first_start  # noqa: F401  (fixtures of every test)
from tests.flows.executors.engine_rows import verified  # noqa: F401  (fixtures of every test)
from tests.postgres import postgres  # noqa: F401  (fixtures of every test)
from tests.profiles import servers_end  # noqa: F401  (fixtures of every test)
from tests.s3_server import s3_prefix, s3_server  # noqa: F401  (fixtures of every test)

os.environ.update(
    DO_NOT_TRACK="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    ITERATIVE_DO_NOT_TRACK="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    HF_HOME=os.environ.get("HF_HOME") or tempfile.mkdtemp(prefix="fewstep-hf-"),   # pipeline.py files are copied there
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
)

LONGEST = ("tests/pipeline/test_kill.py", "tests/flows/commands/test_models.py", "tests/flows/runs/test_run.py")


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: a third of the time the longest tests wait, for servers and for processes to be killed."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """The longest files begin first, so that no core is left alone with one of them at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(LONGEST)))


@pytest.fixture(autouse=True)
def environment_as_before():
    """What a test puts into the environment (Prefect's home, addresses of servers) ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
