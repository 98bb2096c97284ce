"""The pipeline on GPUs that are not there (tests/emulated_gpu): nothing that belongs on them stays behind, and what is
killed ends in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from fewstep.recipes import recipe_names
from tests.emulated_gpu import environment
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.recipe_matrix import NAMES
from tests.killing import Commands
from tests.pipeline.tiny_runs import SIZES, captioned, settings
from tests.project import ROOT, TINY, Project

pytestmark = [pytest.mark.timeout(0),
              pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the GPU")]


class OnGpu(Project):
    """A project whose commands find GPUs."""

    gpus = 1

    def environment(self, **more: str) -> dict[str, str]:
        return environment(super().environment(**more), self.gpus)


class OnTwo(OnGpu):
    """Two of them."""

    gpus = 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    project = OnGpu(tmp_path_factory.mktemp("gpu") / "undisturbed", TINY)
    project.check("run")
    return project


def test_the_pipeline_runs_on_it_to_a_registered_student(undisturbed):
    assert "fewstep-digits/1" in undisturbed.check("lineage", "fewstep-digits/1")
    for name in ("teacher", "trajectories", "student", "baselines", "evaluation", "reference"):
        assert '"gpu": "emulated GPU"' in (undisturbed.folder / "data" / name / "manifest.json").read_text()
    drawn = undisturbed.folder.parent / "drawn.png"
    undisturbed.check("sample", "fewstep-digits/1", "--n", "4", "--out", str(drawn))
    assert drawn.stat().st_size


@pytest.mark.slow
def test_what_is_killed_on_it_ends_in_the_same_bytes(undisturbed, tmp_path):
    commands = Commands(OnGpu(tmp_path / "killed", TINY))
    try:
        for stage, event in (("shard", None), ("encode", None), ("teacher", 40), ("trajectories", 20), ("distill", 40)):
            if event is not None:
                assert commands.run("stage", "run", stage, fatal=(stage, event)).code == -signal.SIGKILL
            commands.check("stage", "run", stage)
        found = commands.project.digests()
        assert {"teacher", "trajectories", "student"} <= found.keys()
        assert found == {name: digest for name, digest in undisturbed.digests().items() if name in found}
    finally:
        commands.close()


PARTS = TINY | {"distill.parts": 2, "teacher.parts": 2, "distill.recipe": "dmd2"}


@pytest.mark.slow
def test_two_of_them_hold_shards_of_what_they_train(tmp_path):
    project = OnTwo(tmp_path / "project", PARTS)
    project.check("run", "--set", "compute.parallel=shard")
    assert '"shards": 2' in (project.folder / "data/student/manifest.json").read_text()
    assert "fewstep-digits/1" in project.check("lineage", "fewstep-digits/1")


@pytest.mark.slow
def test_two_of_them_make_the_bytes_of_one(tmp_path):
    projects = [OnGpu(tmp_path / "one", PARTS), OnTwo(tmp_path / "two", PARTS)]
    for project in projects:
        project.check("run")
    one, two = (project.digests() for project in projects)
    assert all(one[name] == two[name] for name in ("teacher", "trajectories", "student"))


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.slow
def test_every_recipe_trains_on_it(kind):
    command = [sys.executable, "-m", "tests.fewstep.families.recipe_matrix", "--device", "cuda", "--only", kind]
    done = subprocess.run(command, cwd=ROOT, env=environment({**os.environ, "OMP_NUM_THREADS": "1"}),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(recipe_names())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dmd2", "lcm-lora"])
@pytest.mark.parametrize("kind", SIZES)
def test_a_given_teacher_is_distilled_on_it(tmp_path, kind, recipe):
    KINDS[kind].save(tmp_path / "teacher")
    project = OnGpu(tmp_path / "project", settings(kind, tmp_path / "teacher") | {"distill.recipe": recipe})
    project.check("data", "add", str(captioned(tmp_path / "images", SIZES[kind])))
    project.check("run", "--set", "data.source=raw")
    assert f"fewstep-{kind}/1" in project.check("lineage", f"fewstep-{kind}/1")
