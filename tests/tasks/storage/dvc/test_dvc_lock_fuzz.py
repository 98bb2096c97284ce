"""Whatever dvc.lock holds, no stage becomes current by it, and a record is believed only where it is the true one."""

import pytest

from tests.closure import ROOT
from tests.fake_project import FakeProject
from tests.fuzzing import EXAMPLES, TIMEOUT

pytestmark = TIMEOUT

# runs in the project, whose code has the quick stages; only the fuzzer's own module comes from this tree
SEARCH = '''
import sys
sys.path.append(sys.argv[1])
from hypothesis import given
from fewstep.util.errors import FewstepError, SettingsError
from tasks.config import params_file
from tasks.engine import graph, manifest as manifests
from tasks.engine.plan import plan
from tasks.registry.student_registration import undescribed
from tasks.storage.dvc import dvc_cache, dvc_lockfile, dvc_repo
from tasks.storage.snapshots import local_changes
from tasks.storage.workspace import Workspace
from tests.fuzzing import bounded, texts

workspace = Workspace.find()
path, params = workspace.root / "dvc.lock", workspace.params.read_bytes()
ORIGINAL, TRUE = path.read_bytes(), dvc_lockfile.lock_entries(workspace)
SETTINGS = params_file.load(workspace.params)
OTHER = SETTINGS.model_copy(update={"seed": SETTINGS.seed + 1})
LOCKS = texts(params_file.read(path), originals=(ORIGINAL,), yaml=True)
STAGES = graph.IN_DVC


def refused(error):
    assert "dvc.lock" in str(error) and str(error).isprintable() and error.hint, error


@bounded(60)
@given(LOCKS)
def planned(drawn):
    """The outputs that lie there are current or not, whatever dvc.lock says."""
    path.write_bytes(drawn[0])
    try:
        items = plan(workspace, SETTINGS, stages=STAGES)
        entries = dvc_lockfile.lock_entries(workspace)
    except SettingsError as error:
        return refused(error)
    assert all(item.state == "current" and not item.false_record for item in items)
    for item in items:
        assert not item.recorded or entries[item.stage] == TRUE[item.stage]
    for stage in STAGES:
        assert dvc_cache.locked_md5(path, stage.output) is None or stage.output in str(entries)
    if not undescribed(workspace):
        assert all(entries[name]["outs"][0]["md5"] == TRUE[name]["outs"][0]["md5"] for name in TRUE)
    local_changes(workspace, {"dvc.lock": ORIGINAL})
    workspace.params.write_bytes(params.replace(b"seed: 0", b"seed: 1"))
    try:
        assert not [item.stage for item in plan(workspace, OTHER, stages=STAGES) if item.state == "current"]
    finally:
        workspace.params.write_bytes(params)


@bounded(8)
@given(LOCKS)
def recorded(drawn):
    """DVC writes the true entry into what it finds, or the file is refused and left as it is."""
    path.write_bytes(drawn[0])
    stage = STAGES[0]
    try:
        why = dvc_repo.record(workspace, stage.name, manifests.load(workspace.root / stage.output))
    except FewstepError as error:
        assert "dvc.lock" in str(error) and path.read_bytes() == drawn[0], error
        return
    assert why is None and dvc_lockfile.lock_entries(workspace)[stage.name] == TRUE[stage.name]


{"planned": planned, "recorded": recorded}[sys.argv[2]]()
'''


@pytest.mark.parametrize("question", ["planned", "recorded"])
def test_an_altered_dvc_lock(project: FakeProject, question):
    done = project.python(SEARCH, str(ROOT), question, FEWSTEP_FUZZ_EXAMPLES=str(EXAMPLES))
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
