"""The files that fewstep keeps for itself: damaged or altered they are refused by name, or count as missing where they
are only a cache; never another exception, and never other data in their place."""

import json
import tempfile
from pathlib import Path

from hypothesis import given

from fewstep.util.content_cache import ContentCache
from fewstep.util.errors import DataDiffers, FewstepError, SettingsError
from flows.scheduling import schedules
from tasks.config.schema import Settings
from tasks.engine import graph, manifest, plan
from tasks.evaluation.costs import read_costs
from tasks.registry import audit_log
from tasks.registry.record import DELIVERED, NAME, FileRecord
from tasks.storage import code_state, published_outputs
from tasks.storage.dvc import dvc_config, dvc_lockfile, dvc_yaml
from tasks.storage.workspace import Workspace
from tasks.tracking.metric_buffer import MetricBuffer, Point
from tests.closure import ROOT
from tests.fuzzing import TIMEOUT, bounded, texts
from tests.project import checkout_in

pytestmark = TIMEOUT
FILE = manifest.File(path="a.bin", bytes=1, sha256="0" * 64)
MANIFEST = manifest.Manifest(
    stage="shard", key="k" * 64, digest=manifest.tree_digest([FILE]), files=(FILE,), settings={"size": 8}, seed=0,
    inputs={"shard": manifest.InputRecord(key="a", digest="b")}, given={"images": "c"}, code="d",
    versions={"torch": "2"}, fingerprint=({"device": "cpu"},), summary={"samples": 1}, code_files={"a.py": "e"},
).to_json().encode()  # fmt: skip
PUBLISHED = b'{"stage": "shard", "key": "ab", "digest": "cd", "md5": "%s.dir", "store": "../x"}' % (b"0" * 32)
SCHEDULE = schedules.Schedule(name="night", cron="0 2 * * *", sets=("seed=1",)).model_dump_json().encode()
ENTRIES = [audit_log.new(event, alias="champion", former=None, to=1, who="me", why="x", **more).to_json()
           for event, more in (("pending", {"expires": "2026-01-01T00:00:00+00:00"}), ("promoted", {}))]  # fmt: skip
POINTS = b"".join(json.dumps(Point("loss", 0.5, step, 1700000000000)).encode() + b"\n" for step in (1, 2))
COST = b'{"seconds": 1.5, "key": "k", "round-1": {"seconds": 2.0}, "parameters": 7}'
CODE = b'{"code": "abc", "commit": "%s"}' % (b"1" * 40)


def documents(text: bytes, *more: bytes):
    return texts(json.loads(text), originals=(text, *more))


def put(path: Path, text: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return path


def named(error: FewstepError, path: Path) -> None:
    assert str(path) in str(error) and str(error).isprintable()


def in_folder(check):
    """The check with a new workspace for every example."""
    with tempfile.TemporaryDirectory() as folder:
        check(Workspace(Path(folder)))


@bounded(60)
@given(documents(MANIFEST))
def test_manifests(drawn):
    text, said = drawn

    def check(workspace):
        path = put(workspace.root / "manifest.json", text)
        try:
            found = manifest.load(workspace.root)
        except FewstepError as error:
            return named(error, path)
        assert found.digest == manifest.tree_digest(found.files)
        assert said is None or json.dumps(json.loads(found.to_json())["settings"], sort_keys=True) == json.dumps(
            said["settings"], sort_keys=True)
        again = manifest.parse_manifest(json.loads(found.to_json()), "again")
        assert again.to_json() == found.to_json()   # as text: NaN differs from itself

    in_folder(check)


@bounded(60)
@given(documents(PUBLISHED))
def test_notes_of_published_outputs(drawn):
    def check(workspace):
        path = put(workspace.published / "ab.json", drawn[0])
        found = published_outputs.restorable(workspace, "ab") or published_outputs.read(workspace, "ab")
        assert found is None or len(found.md5.removesuffix(".dir")) == 32
        try:
            published_outputs.read_file(path)
        except DataDiffers as error:
            assert found is None
            named(error, path)

    in_folder(check)


@bounded(40)
@given(documents(SCHEDULE))
def test_schedules(drawn):
    def check(workspace):
        path = put(schedules.folder(workspace) / "night.json", drawn[0])
        good, bad = schedules.load_good(workspace)
        assert len(good) + len(bad) == 1
        try:
            found = schedules.load(path)
        except DataDiffers as error:
            return named(error, path)
        assert found.name == "night"

    in_folder(check)


@bounded(60)
@given(texts(*map(json.loads, ENTRIES), originals=tuple(line.encode() for line in ENTRIES)))
def test_the_audit_log(drawn):
    def check(workspace):
        path = put(workspace.root / NAME, ENTRIES[1].encode() + b"\n" + drawn[0].replace(b"\n", b" ") + b"\n")
        try:
            entries = FileRecord(workspace.root).read()
        except DataDiffers as error:
            return named(error, path)
        audit_log.waiting(entries)
        assert audit_log.closing(entries, entries[0].id) is None and len(entries) == 2
        put(workspace.root / DELIVERED, drawn[0])
        try:
            assert 0 <= FileRecord(workspace.root).delivered() <= 2
        except DataDiffers as error:
            named(error, workspace.root / DELIVERED)

    in_folder(check)


@bounded(60)
@given(texts([["loss", 0.5, 1, 1700000000000]], originals=(POINTS,)))
def test_metrics_that_wait(drawn):
    def check(workspace):
        path = put(workspace.root / "points.jsonl", drawn[0])
        try:
            points = MetricBuffer(path).points
        except DataDiffers as error:
            return named(error, path)
        assert all(isinstance(point.value, float) and isinstance(point.step, int) for point in points)

    in_folder(check)


@bounded(60)
@given(documents(COST))
def test_costs(drawn):
    def check(workspace):
        path = put(workspace.data / "cost" / "shard.json", drawn[0])
        seconds = plan.last_seconds(workspace, graph.stage("shard"))
        assert seconds is None or seconds >= 0
        try:
            assert all(isinstance(value, float | int) for value in read_costs(path.parent)["shard"].rounds.values())
        except DataDiffers as error:
            named(error, path)

    in_folder(check)


@bounded(60)
@given(documents(CODE))
def test_caches_count_as_missing(drawn):
    def check(workspace):
        put(workspace.shared / "code" / "abc.json", drawn[0])
        assert len(code_state.commit_of(workspace, "abc") or "1" * 40) in (40, 64)
        put(workspace.local / "recorded" / "shard.json", drawn[0])
        assert not dvc_lockfile.is_recorded(workspace, graph.stage("shard"), "k", "v", {"cmd": "x"})
        cache = ContentCache(workspace.root / "cache")
        cache.put("a", {"x": [1.5, float("nan")]})
        (path,) = cache.folder.glob("*.json")
        put(path, drawn[0])
        assert cache.get("a") is None

    in_folder(check)


@bounded(40)
@given(texts({"core": {"remote": "far"}}, originals=(b"[core]\n    remote = far\n['remote \"far\"']\n    url = s3://b/x\n",)))
def test_dvcs_configuration(drawn):
    def check(workspace):
        put(workspace.root / ".dvc" / "config", drawn[0])
        try:
            remote = dvc_config.default_remote(workspace)
        except SettingsError as error:
            return named(error, workspace.root / ".dvc")
        assert remote is None or (isinstance(remote.url, str) and isinstance(remote.name, str))

    in_folder(check)


GIVEN = (ROOT / "dvc.yaml").read_bytes()
RECIPE = Settings.model_validate({"distill": {"recipe": "my.yaml"}})


@bounded(60)
@given(texts(json.loads(json.dumps(dvc_yaml._content(GIVEN, ROOT / "dvc.yaml"))), originals=(GIVEN,), yaml=True))
def test_dvc_yaml_names_what_comes_from_outside_or_is_refused(drawn):
    def check(workspace):
        path = put(checkout_in(workspace.root).root / "dvc.yaml", drawn[0])
        try:
            changed = dvc_yaml.sync_given(workspace, RECIPE)
        except SettingsError as error:
            assert path.read_bytes() == drawn[0]
            return named(error, path)
        now = dvc_yaml._content(path.read_bytes(), path)
        before = dvc_yaml._content(drawn[0], path)
        assert {**now, "vars": 0} == {**before, "vars": 0} and not dvc_yaml.sync_given(workspace, RECIPE)
        assert changed or path.read_bytes() == drawn[0]
        for name in ("trajectories", "distill"):
            entry = (now.get("stages") or {}).get(name) if isinstance(now.get("stages"), dict) else None
            if isinstance(entry, dict) and "${given.recipe}" in (entry.get("deps") or []):
                assert dvc_yaml._given_of(now)["recipe"] == "my.yaml"

    in_folder(check)
