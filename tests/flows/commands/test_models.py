"""The model commands on a real pipeline with tiny settings: lineage, checkout, sample, promote, rollback."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.profiles import SERVER, remote_away
from tests.project import TINY, Project

pytestmark = pytest.mark.both_profiles
STAGES = """
import sys
from tasks.engine import graph; from tasks.engine import runner; from tasks.config import params_file as settings
from tasks.tracking.mlflow_logger import MlflowObserver
from types import SimpleNamespace
from tasks.storage.workspace import Workspace

workspace = Workspace.find()
loaded = settings.load(workspace.params)
watcher = MlflowObserver(workspace, loaded, SimpleNamespace(id=sys.argv[1]))
watcher.start()
for stage in graph.STAGES:
    print(stage.name, runner.run_stage(workspace, stage.name, loaded, observer=watcher).state)
watcher.finish()
"""


def make(project: Project, run: str) -> dict[str, str]:
    done = subprocess.run([sys.executable, "-c", STAGES, run], cwd=project.folder, env=project.environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two versions: the second has another student. Tests leave it as they found it."""
    found = Project(tmp_path_factory.mktemp("models") / "checkout", TINY)
    assert set(make(found, "run-1").values()) == {"made"}
    found.set({"distill.images": 512})
    states = make(found, "run-2")
    assert {name for name, state in states.items() if state == "made"} == {"distill", "evaluate", "register"}
    return found


@pytest.fixture(autouse=True)
def of_the_project(project, monkeypatch):
    """This process's environment is that of the project's commands."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "PREFECT_"))]:
        monkeypatch.delenv(name)
    for name, value in project.servers.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def fewstep(project, monkeypatch):
    """Runs a command in this process: exit code, standard output, standard error."""
    from flows.cli import main

    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("COLUMNS", "80")
    def run(*arguments: str) -> tuple[int, str, str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(arguments))
            except SystemExit as stop:
                code = stop.code or 0
        return code, out.getvalue(), err.getvalue()

    return run


def state_of(answer: str) -> dict[str, str]:
    """Title → state of every link in the JSON of `fewstep lineage`."""
    found = {}

    def walk(link):
        found.setdefault(link["title"], link["state"])
        for one in link["inputs"]:
            walk(one)

    walk(json.loads(answer))
    return found


@contextlib.contextmanager
def damaged(path: Path):
    """One bit flipped, size and times as before."""
    before, stat = path.read_bytes(), path.stat()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    yield
    path.write_bytes(before)


def test_registered_versions_carry_what_they_came_from(project, fewstep):
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry = Registry(Workspace(project.folder))
    first, second = registry.versions("fewstep-digits")
    assert first.aliases == ("champion",) and second.aliases == ("candidate",)
    assert first.provenance.stages["teacher"] == second.provenance.stages["teacher"] and first.tags["fewstep.commit"]
    assert json.loads(first.tags["fewstep.protocols"]) and "student" in json.loads(first.tags["fewstep.results"])
    run = registry.tracking.client.get_run(second.run_id)
    parent = registry.tracking.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["fewstep.run"] == "run-2"
    kept = {Path(item.path).name for item in registry.tracking.client.list_artifacts(second.run_id, "snapshot")}
    assert kept >= {"params.yaml", "dvc.lock", "manifests", "metrics.json", "grid.png"}
    tags = subprocess.run(["git", "tag"], cwd=project.folder, capture_output=True, text=True).stdout.split()
    assert tags == [first.git_tag, second.git_tag] and first.git_tag.startswith("fewstep/fewstep-digits/v1-")
    elsewhere = replace(first, source="models:/m-of-another-registry")
    assert elsewhere.git_tag not in tags, "version 1 of another registry, whose tags a clone brings, is another tag"


def test_lineage_verifies_every_byte(fewstep):
    code, out, _ = fewstep("lineage", "digits@candidate")
    assert code == 0 and "every byte verified" in out
    assert all(word in out for word in ("weights", "student", "trajectories", "teacher", "shards", "raw data",
                                        "commit"))
    code, out, _ = fewstep("lineage", "digits/1", "--json")  # its student is in DVC's cache only
    assert code == 0 and set(state_of(out).values()) == {"verified"}


def test_lineage_fits_a_narrow_terminal(fewstep, monkeypatch):
    from rich.console import Console

    import flows.output

    text = io.StringIO()
    monkeypatch.setattr(flows.output, "console", lambda **_: Console(file=text, width=60))
    fewstep("lineage", "digits@candidate")
    assert max(map(len, text.getvalue().splitlines())) <= 60


@pytest.mark.parametrize("output", ["trajectories", "teacher", "shards", "evaluation"])
def test_lineage_names_what_differs(project, fewstep, output):
    folder = project.folder / "data" / output
    path = max((path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"),
               key=lambda path: path.stat().st_size)  # fmt: skip
    with damaged(path):
        code, out, _ = fewstep("lineage", "digits@candidate", "--json")
        assert code == 3 and state_of(out)[output] == "differs"
        assert path.name in out


def test_lineage_says_what_is_not_here(project, fewstep, tmp_path):
    cache = project.folder / ".dvc" / "cache"
    env = project.environment()
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], cwd=project.folder, env=env, check=True)
    teacher = project.folder / "data" / "teacher"
    shutil.move(teacher, tmp_path / "teacher")
    shutil.move(cache, tmp_path / "cache")
    try:
        code, out, _ = fewstep("lineage", "digits@candidate", "--json")  # pulled
        assert code == 0, out
        shutil.rmtree(cache)
        with remote_away(project.folder):
            code, out, _ = fewstep("lineage", "digits@candidate", "--json")
        assert code == 4 and state_of(out)["teacher"] == "unavailable" and state_of(out)["student"] == "verified"
    finally:
        shutil.move(tmp_path / "teacher", teacher)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.move(tmp_path / "cache", cache)


def test_lineage_finds_a_version_s_own_output_when_other_code_made_the_same_bytes_again(project, fewstep):
    from tasks.registry.gate import promotion_checks
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    path = project.folder / "data" / "evaluation" / "manifest.json"
    text, registry = path.read_text(), Registry(Workspace(project.folder))
    path.write_text(json.dumps({**json.loads(text), "key": "0" * 64}))
    try:
        code, out, _ = fewstep("lineage", "digits@candidate", "--json")
        assert code == 0 and set(state_of(out).values()) == {"verified"}
        assert promotion_checks.unknown_to_dvc(registry, registry.get("fewstep-digits", 2)) == []
    finally:
        path.write_text(text)


def test_an_upgraded_checkout_keeps_a_version_s_lineage_and_shows_code_that_was_accepted(project, fewstep):
    """The code changed since and was accepted; what is registered is compared with the code at its own commit."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        subprocess.run(["git", *identity, *arguments], cwd=project.folder, check=True, capture_output=True)

    def process(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=project.folder,
                              env=project.environment(FEWSTEP_USER="eve"), capture_output=True, text=True)  # fmt: skip

    def accept(*arguments: str) -> subprocess.CompletedProcess:
        return process("accept", *arguments)

    source = project.folder / "tasks" / "stages" / "teacher.py"
    manifest = project.folder / "data" / "teacher" / "manifest.json"
    code_before, manifest_before = source.read_text(), manifest.read_text()
    lock, lock_before = project.folder / "dvc.lock", (project.folder / "dvc.lock").read_bytes()
    source.write_text(code_before + "\nRENAMED = 1\n")
    git("commit", "-qam", "a constant with another name")
    try:
        code, out, _ = fewstep("lineage", "digits@candidate", "--json")
        assert code == 0 and set(state_of(out).values()) == {"verified"}
        done = accept("teacher", "--unchecked", "--why", "renamed a constant")
        assert done.returncode == 0 and "teacher: accepted (not compared)" in done.stdout, done.stderr
        line = "other code accepted by eve on"
        code, out, _ = fewstep("lineage", "digits@candidate")
        assert code == 0 and "every byte verified" in out and line in out and "renamed a constant" in out
        code, out, _ = fewstep("lineage", "digits@candidate", "--json")
        assert line in out and set(state_of(out).values()) == {"verified"}
        shown = process("promote", "digits", "--dry-run").stdout
        assert f"lineage: teacher: {line}" in " ".join(shown.split()), shown
        assert accept("--why", " ").returncode == 2 and "the reason is empty" in accept("--why", " ").stderr
        assert "did you mean 'teacher'" in accept("teecher", "--why", "x").stderr
    finally:
        source.write_text(code_before)
        git("commit", "-qam", "as it was")
        manifest.write_text(manifest_before)
        lock.write_bytes(lock_before)


def test_who_uses_a_hash(project, fewstep):
    manifest = json.loads((project.folder / "data/teacher/manifest.json").read_text())
    code, out, _ = fewstep("lineage", "--uses", manifest["digest"][:10], "--json")
    assert code == 0
    assert [(entry["version"], entry["what"]) for entry in json.loads(out)] == [
        ("fewstep-digits/1", ["teacher"]), ("fewstep-digits/2", ["teacher"])]  # fmt: skip
    student = json.loads((project.folder / "data/student/manifest.json").read_text())
    weights = next(file for file in student["files"] if file["path"].endswith(".safetensors"))
    _, out, _ = fewstep("lineage", "--uses", weights["sha256"], "--json")
    (entry,) = json.loads(out)
    assert entry["version"] == "fewstep-digits/2" and entry["what"] == [f"student: {weights['path']}"]
    assert fewstep("lineage", "--uses", "0" * 64)[:2] == (0, f"no registered version uses {'0' * 64}\n")
    assert fewstep("lineage", "--uses", "teacher")[0] == 2
    assert fewstep("lineage")[0] == 2


def test_sample_draws_what_is_registered_and_nothing_else(project, fewstep, tmp_path):
    target = tmp_path / "grid.png"
    code, out, _ = fewstep("sample", "digits@champion", "--n", "20", "--steps", "2", "--out", str(target), "--json")
    assert code == 0 and json.loads(out)["steps"] == 2
    with Image.open(target) as picture:
        assert min(picture.size) > 50 and len(picture.convert("L").getcolors(100_000)) > 20
    again = tmp_path / "again.png"
    fewstep("sample", "digits@champion", "--n", "20", "--steps", "2", "--out", str(again))
    assert again.read_bytes() == target.read_bytes()
    assert fewstep("sample", "digits", "--class", "10", "--out", str(again))[0] == 2
    assert fewstep("sample", "digits", "--out", str(tmp_path / "no" / "grid.png"))[0] == 2
    assert fewstep("sample", "digits@nobody", "--out", str(again))[0] == 4
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry = Registry(Workspace(project.folder))
    folder = registry.pipeline(registry.resolve("digits@champion"))
    with damaged(next(folder.rglob("*.safetensors"))):
        code, _, err = fewstep("sample", "digits", "--out", str(tmp_path / "other.png"))
        if SERVER:      # a copy of what the server has: fetched anew
            assert code == 0 and (tmp_path / "other.png").is_file()
        else:
            assert code == 3 and "differ from what was registered" in err and not (tmp_path / "other.png").exists()


def test_checkout_restores_a_version_and_spares_local_changes(project, fewstep):
    digests, params = project.digests(), project.folder / "params.yaml"
    text = params.read_text()
    params.write_text(text + "# mine\n")
    code, _, err = fewstep("checkout", "digits/1")
    assert code == 2 and "params.yaml has changes" in err and "--force" in err
    assert params.read_text() == text + "# mine\n" and project.digests() == digests
    params.write_text(text)  # what version 2 keeps is not lost
    code, out, err = fewstep("checkout", "digits/1", "--json")
    assert code == 0, err
    assert "images: 768" in params.read_text() and project.digests()["student"] != digests["student"]
    params.write_text(text + "# mine\n")
    assert fewstep("checkout", "digits@candidate", "--force")[0] == 0
    without = {name: digest for name, digest in project.digests().items() if name != "registration"}
    assert params.read_text() == text and without == {n: d for n, d in digests.items() if n != "registration"}


def test_checkout_into_a_folder_of_its_own(project, fewstep, tmp_path):
    digests = project.digests()
    code, _, err = fewstep("checkout", "digits/1", "--into", str(tmp_path / "v1"))
    assert code == 0, err
    assert "images: 768" in (tmp_path / "v1" / "params.yaml").read_text()
    assert (tmp_path / "v1" / "data" / "student" / "manifest.json").is_file() and project.digests() == digests
    assert fewstep("checkout", "digits/1", "--into", str(tmp_path / "v1"))[0] == 2
    subprocess.run(["git", "worktree", "remove", "--force", str(tmp_path / "v1")], cwd=project.folder, check=True)


def test_the_promotion_flow_decides_and_rollback_undoes_it(project, fewstep):
    from tasks.config import params_file, schema
    from tasks.registry.aliases import history, move
    from tasks.registry.gate import champion_test, promotion_gate
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry, rules = Registry(Workspace(project.folder)), params_file.load(project.folder / "params.yaml").register
    before = history(registry, "fewstep-digits")
    code, out, err = fewstep("promote", "digits", "--dry-run")  # through Prefect
    assert code in (0, 1) and "class_accuracy, class 7" in out and "64 samples each from common noise" in out, out
    assert "prefect" not in err.lower() and "mlflow" not in err.lower()
    assert history(registry, "fewstep-digits") == before
    champion, candidate = registry.get("fewstep-digits", 1), registry.get("fewstep-digits", 2)
    decision = promotion_gate.promote(registry, candidate, rules, policy="gated", why="a test")
    found = decision.figures["contest"]
    assert found["n"] == TINY["evaluate.samples"] and found["champion"] == 1 and found["cost"]["evaluations"] == [1, 1]
    assert len(found["contrasts"]) == 2 * 11 + 2 and decision.promoted is (code == 0)
    wide = schema.Margins(**dict.fromkeys(schema.Margins.model_fields, 1e6))
    equal = champion_test.hold(registry, candidate, champion, schema.Gate(margins=wide, level=1e-9), None)
    assert equal.kind == "equal" and "nor cheaper by 10%" in equal.reasons[0]
    assert equal.figures["cost"]["latency"]["n"] > 10
    measured = [[(one["metric"], one["group"], one["excess"], one["standard_error"]) for one in figures["contrasts"]]
                for figures in (found, equal.figures)]  # fmt: skip
    assert measured[0] == measured[1]  # nothing in it is left to chance
    if not decision.promoted:
        assert decision.kind in ("power", "inferior") and decision.reasons
        entry = history(registry, "fewstep-digits")[-1]
        assert entry.event == "refused" and entry.figures["contest"]["contrasts"] == found["contrasts"]
        move(registry, candidate, 1)
    code, out, _ = fewstep("rollback", "digits")
    assert code == 0 and "version 1 again (it was 2)" in out
    assert registry.aliases("fewstep-digits") == {"champion": 1, "previous": 2, "candidate": 2}
    assert fewstep("promote", "digits", "--to", "previous")[0] == 2


def test_the_gate_refuses_a_version_whose_lineage_does_not_verify(project, fewstep):
    from tasks.config import params_file
    from tasks.registry.gate import promotion_gate
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry, rules = Registry(Workspace(project.folder)), params_file.load(project.folder / "params.yaml").register
    with damaged(next((project.folder / "data" / "teacher").rglob("*.safetensors"))):
        decision = promotion_gate.promote(registry, registry.get("fewstep-digits", 2), rules, policy="gated",
                                          alias="live")
    assert not decision.promoted and "lineage does not verify: teacher" in decision.reasons[0]


def test_the_gate_refuses_what_dvc_does_not_know_and_code_that_was_not_committed(project, monkeypatch):
    from tasks.registry.gate import promotion_checks
    from tasks.registry.model_registry import Registry
    from tasks.storage.dvc import dvc_cache
    from tasks.storage.workspace import Workspace

    registry = Registry(Workspace(project.folder))
    version = registry.get("fewstep-digits", 2)
    assert promotion_checks.incomplete(version) == [] and promotion_checks.unknown_to_dvc(registry, version) == []
    stages = json.loads(version.tags["fewstep.stages"])
    stages["distill"]["code"] = "0" * 64  # what ran is not what the commit holds
    other = replace(version, tags={**version.tags, "fewstep.stages": json.dumps(stages), "fewstep.modified": "true"})
    assert any(line.startswith("uncommitted changes in the code that made it: distill")
               for line in promotion_checks.without_lineage(registry, other, {}))  # fmt: skip
    real = dvc_cache.locked_md5
    for found, said in ((None, "does not name it"), ("0" * 32 + ".dir", "records other bytes")):
        monkeypatch.setattr(dvc_cache, "locked_md5", lambda lock, path, *rest, found=found:
                            found if path == "data/teacher" else real(lock, path, *rest))  # fmt: skip
        (line,) = promotion_checks.unknown_to_dvc(registry, version)
        assert line.startswith("data/teacher is unknown to DVC") and said in line


def test_a_decision_waits_and_a_person_decides(project, fewstep):
    from tasks.registry.aliases import Decision, history
    from tasks.registry.gate import pending_approvals
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry = Registry(Workspace(project.folder))
    before = registry.aliases("fewstep-digits")
    decision = Decision("fewstep-digits", 2, "live", "gated", True, (), None)
    for command, event in (("reject", "rejected"), ("approve", "promoted")):
        identity = pending_approvals.store(registry, decision, 1.0, why="sharper").pending
        code, out, _ = fewstep("approve")
        assert code == 0 and f"{identity[:8]}  fewstep-digits/2 → live" in out
        code, out, _ = fewstep(command, identity[:8], "--why", "looked", "--json")
        assert code == 0 and json.loads(out)["event"] == event
    assert registry.aliases("fewstep-digits") == {**before, "live": 2}
    assert history(registry, "fewstep-digits")[-1].why == "looked"
    assert fewstep("approve", identity[:8])[0] == 1 and fewstep("approve", "0" * 8)[0] == 4
    assert "nothing waits" in fewstep("reject")[1]
    registry.tracking.client.delete_registered_model_alias("fewstep-digits", "live")


def test_nothing_is_registered_that_dvc_lock_does_not_describe(project):
    from tasks.registry.student_registration import undescribed
    from tasks.storage.dvc import dvc_lockfile
    from tasks.storage.workspace import Workspace

    def about_lock():
        return [line for line in undescribed(Workspace(project.folder)) if line.startswith("dvc.lock")]

    lock = project.folder / "dvc.lock"
    before = lock.read_text()
    assert about_lock() == []
    try:
        md5 = dvc_lockfile.lock_entries(Workspace(project.folder))["shard"]["outs"][0]["md5"]
        lock.write_text(before.replace(md5, "0" * 32 + ".dir"))
        assert "dvc.lock records other bytes than those in data/" in about_lock()[0]
        lock.unlink()
        assert about_lock()[0] == "dvc.lock has no record of stage 'shard'"
    finally:
        lock.write_text(before)


def test_registered_data_survives_garbage_collection(project, fewstep):
    code, _, err = fewstep("gc", "--keep-runs", "0", "--json")
    assert code == 0, err
    code, out, _ = fewstep("lineage", "digits/1", "--json")
    assert code == 0 and set(state_of(out).values()) == {"verified"}


@pytest.mark.slow
def test_a_promotion_into_another_registry_outlives_this_one(project, fewstep, tmp_path, monkeypatch):
    """Version 2 becomes version 1 and champion there, and samples from there when what it came from is gone."""
    store = f"sqlite:///{tmp_path}/production/mlflow.db"
    (tmp_path / "production").mkdir()
    assert fewstep("promote", "digits/2", "--registry", store, "--dry-run")[0] == 2
    said = " ".join(project.check("promote", "digits/2", "--registry", store, "--why", "production").split())
    assert "fewstep-digits/1 is fewstep-digits@champion" in said and "is a copy of digits/2" in said
    here, gone = project.folder / ".fewstep" / "mlartifacts", tmp_path / "gone"
    shutil.move(here, gone)
    try:
        assert fewstep("sample", "digits/2", "--out", str(tmp_path / "never.png"))[0] == 4
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        code, out, err = fewstep("sample", "digits@champion", "--n", "4", "--out", str(tmp_path / "grid.png"))
        assert code == 0 and "4 samples of fewstep-digits/1" in out, err
    finally:
        shutil.move(gone, here)


@pytest.mark.local  # servers' databases and stores: tests/tasks/backup
def test_a_backup_restored_to_an_empty_project_has_lineage_and_promotes(project, tmp_path):
    backup, fresh, hidden = tmp_path / "backup", Project(tmp_path / "fresh", TINY), tmp_path / "hidden"
    shutil.rmtree(fresh.folder / ".fewstep")        # no database of its own
    made = json.loads(project.check("backup", str(backup), "--json"))
    assert made["databases"][0] == "mlflow" and made["needed"]
    assert made["absent"] == [] and (backup / "backup.json").is_file()
    assert project.run("backup", str(backup)).returncode == 2       # it is not empty
    assert project.run("restore", str(backup)).returncode == 2      # this project is not
    aliases = _aliases(project)
    victim = next((backup / "files" / "mlartifacts").rglob("*.safetensors"))
    data = victim.read_bytes()
    victim.write_bytes(data[:-1])
    damaged = fresh.run("restore", str(backup))
    assert damaged.returncode == 3 and f"{victim}: its bytes differ from its checksum" in damaged.stderr
    assert not (fresh.folder / ".fewstep" / "mlflow.db").exists()
    victim.write_bytes(data)

    project.folder.rename(hidden)       # nothing of it is left where it was
    try:
        fresh.check("restore", str(backup))
        assert _aliases(fresh) == aliases
        for number in (1, 2):
            assert set(state_of(fresh.check("lineage", f"digits/{number}", "--json")).values()) == {"verified"}
        fresh.check("promote", "digits/2", "--to", "live", "--why", "after the fire")
        assert _aliases(fresh) == {**aliases, "live": 2}
    finally:
        hidden.rename(project.folder)


ALIASES = """
import json
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
print(json.dumps(Registry(Workspace.find()).aliases("fewstep-digits")))
"""


def _aliases(project: Project) -> dict[str, int]:
    """In a process of its own: one that has opened a store of MLflow goes on with parts of it."""
    done = subprocess.run([sys.executable, "-c", ALIASES], cwd=project.folder, env=project.environment(),
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout)
