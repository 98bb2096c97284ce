"""Whatever a run's record holds is taken and can be shown and written, or refused with an error that names it."""

import io
import json
import tempfile
from pathlib import Path

from hypothesis import given
from rich.console import Console

from fewstep.util.errors import DataDiffers, SettingsError
from flows.commands.pipeline.status import _list, _show, status_of
from flows.runs.new_run import differences, settings_of
from tasks.config.schema import Settings
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns, KnownRun
from tasks.tracking.run_record import FAILED, RUNNING, RunError
from tasks.tracking.run_records import RecordObserver, RunStore
from tests.fuzzing import TIMEOUT, bounded, texts

pytestmark = TIMEOUT

RUN = "digits-20260101-120000-ab12"


def written() -> bytes:
    """A record as a run with a failed and an interrupted stage leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Workspace(Path(folder)))
        record = store.new(Settings().model_dump(mode="json"), run=RUN, commit="c0ffee", root="/somewhere")
        with store.hold(record):
            observer = RecordObserver(store, record)
            observer.stage_started("shard", "k1")
            observer.stage_progress("shard", 10, 20, "images", {"loss": float("nan")}, 10)
            observer.stage_warned("shard", "two images are corrupt")
            observer.stage_failed("shard", ValueError("it broke"))
            observer.stage_started("teacher", "k2")
            record.mlflow = {"uri": "sqlite:///x", "run": "r1"}
        store.close(record, FAILED, RunError(stage="shard", kind="ValueError", message="it broke", hint="mend it"))
        record.stages["teacher"].state = RUNNING
        store.save(record)
        return store.path(RUN).read_bytes()


WRITTEN = written()


@bounded(150)
@given(texts(json.loads(WRITTEN), originals=(WRITTEN,)))
def test_records_are_taken_and_usable_or_refused_by_name(drawn):
    text, said = drawn
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Workspace(Path(folder)))
        store.folder.mkdir(parents=True)
        store.path(RUN).write_bytes(text)
        assert store.ids() == [RUN]
        try:
            record = store.find()
        except DataDiffers as error:
            assert str(store.path(RUN)) in str(error) and str(error).isprintable()
            return
        if said is not None:
            assert {name: getattr(record, name) for name in ("id", "root", "settings", "commit")} == {
                name: said.get(name) for name in ("id", "root", "settings", "commit")}  # fmt: skip
        shown = status_of(KnownRun(record, here=True, alive=store.alive_here(record.id)))
        out = Console(file=io.StringIO(), width=100)
        _show(shown, out)
        _list([shown], out, 1, 50, 1)
        json.dumps(shown.to_dict())
        assert RUN in out.file.getvalue()
        try:
            settings = settings_of(record)
            assert differences(record, settings) == [] or record.settings != settings.model_dump(mode="json")
        except SettingsError as error:
            assert RUN in str(error)
        AllRuns(store.workspace).newest_in(record.root, record.settings_digest)
        AllRuns(store.workspace).newest_isolated(record.settings_digest)
        store.settle(record)
        store.save(record)
        with store.hold(record):
            pass
        store.close(record, FAILED)
        assert store.load(RUN).settings == record.settings
