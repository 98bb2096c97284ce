"""`fewstep inspect`, as its user calls it: tiny pipelines of several families, and a folder that is refused."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
from rich.console import Console
from safetensors import safe_open

from fewstep.families.recorded_conditions import record_conditions
from fewstep.networks.unet_mlp import new_unet
from fewstep.recipes import recipe_names
from fewstep.students.export import export_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import LoraSettings, StudentSettings
from fewstep.teachers import load_teacher
from fewstep.training.roles.multi_student import join
from fewstep.util.errors import SettingsError
from flows.commands.inputs.inspect import show
from tasks.config.schema import Encode
from tasks.data.teacher_facts import TeacherSummary
from tasks.data.teacher_summary import summarise
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.networks.untrained import origin

ROOT = Path(__file__).parents[3]
SAMPLES = {"sd": (3, 32, 32), "flux": (3, 32, 32), "dit": (3, 16, 16), "unet": (1, 8, 8)}
REFUSED = {
    "sd": {"msd", "swiftbrush-v2"}, "flux": {"msd", "plug-and-play", "slimflow", "swiftbrush-v2"},
    "dit": {"msd", "plug-and-play", "slimflow"},
}  # fmt: skip


def fewstep(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "flows.cli", "inspect", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | environment)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Saved pipelines: three of families, one of pixels."""
    root = tmp_path_factory.mktemp("pipelines")
    for kind in ("sd", "flux", "dit"):
        KINDS[kind].save(root / kind)
    diffusers.DDPMPipeline(unet=new_unet(8, 1, 0, (8, 16)), scheduler=diffusers.DDPMScheduler()).save_pretrained(
        root / "unet")  # fmt: skip
    return {kind: root / kind for kind in SAMPLES}


@pytest.fixture(scope="module")
def summaries(folders) -> dict[str, TeacherSummary]:
    """What is told of each."""
    given = {kind: KINDS[kind].arguments if kind in KINDS else {} for kind in folders}
    return {kind: summarise(folder, Encode(arguments=given[kind])) for kind, folder in folders.items()}


def _parameters(folder: Path) -> int:
    found = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118, it is no dictionary
    return found


@pytest.mark.parametrize("kind", SAMPLES)
def test_parts_states_and_samples_are_those_of_the_pipeline(folders, summaries, kind):
    told = summaries[kind]
    index = json.loads((folders[kind] / "model_index.json").read_text())
    assert told.pipeline == index["_class_name"]
    assert {part.name: part.kind for part in told.parts} == {
        name: value[1] for name, value in index.items()
        if isinstance(value, list) and (folders[kind] / name / "config.json").is_file()
        and list((folders[kind] / name).glob("*.safetensors"))
    }  # fmt: skip
    assert all(part.parameters == _parameters(folders[kind] / part.name) for part in told.parts)
    assert told.parts[0].name == told.part and told.parameters == told.parts[0].parameters
    teacher = load_teacher(folders[kind], arguments=told.recorded.arguments)
    assert told.recorded.state.shape == tuple(teacher.sample_shape)
    assert told.recorded.state.float32 == 2 * told.recorded.state.bfloat16 == 4 * math.prod(teacher.sample_shape)
    assert told.recorded.sample == SAMPLES[kind]
    assert [role.role for role in told.recorded.memory][:2] == ["teacher", "student"]


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_the_bytes_of_a_prompt_are_those_of_its_tensors(folders, summaries, kind):
    told = summaries[kind].recorded
    teacher = load_teacher(folders[kind], arguments=told.arguments)
    rows = record_conditions(KINDS[kind].build(), teacher.family, {"prompt": ["a red apple"]}, 1)
    assert {one.name: one.float32 for one in told.fields} == {name: rows[name].nbytes for name in rows}
    assert all(2 * one.bfloat16 == one.float32 and one.dtype == "float32" for one in told.fields)
    assert summaries[kind].textual and told.null


def test_guidance_is_told_as_the_pipeline_evaluates_it(summaries):
    assert {kind: one.recorded.guidance for kind, one in summaries.items()} == {
        "sd": "joint", "flux": "sequential", "dit": "joint", "unet": None}  # fmt: skip
    assert summaries["flux"].recorded.embedded == 3.5 and summaries["sd"].recorded.embedded is None
    assert (summaries["dit"].classes, summaries["dit"].recorded.fields) == (1000, ())
    assert not summaries["unet"].recorded.null and summaries["unet"].classes == 0


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_recipe_can_be_run_or_is_refused_with_the_reason(summaries, kind):
    told = summaries[kind].recorded
    refused = {one.name: one.reason for one in told.refused}
    assert sorted([*told.recipes, *refused]) == recipe_names() and all(refused.values())
    if kind in REFUSED:
        assert set(refused) == REFUSED[kind]
    else:  # it has no null class, so nothing that guides a teacher
        assert "guidance" in refused["lora-guidance"] and "kd" in told.recipes


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("kind", SAMPLES)
def test_the_text_fits_a_narrow_terminal(summaries, kind, width):
    out = io.StringIO()
    show(Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None), summaries[kind])
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    words = "".join(text.split())
    for name in (summaries[kind].pipeline, summaries[kind].network, *(one.name for one in summaries[kind].parts)):
        assert name in words


def test_the_command_answers_in_json_and_in_text_and_prints_nothing_else(folders):
    done = fewstep(folders["sd"], "--height", "32", "--width", "32", "--rank", "4", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert told["recorded"]["arguments"] == {"height": 32, "width": 32} and told["recorded"]["rank"] == 4
    teacher = told["recorded"]["memory"][0]
    assert teacher["total"] == 4 * told["parameters"]
    shown = fewstep(folders["dit"])
    assert shown.returncode == 0 and shown.stderr == "" and "1,000 classes" in shown.stdout


def test_headers_alone_are_read_without_torch(folders):
    code = ("import sys; from flows.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
            "print([name for name in ('torch', 'diffusers') if name in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, "inspect", str(folders["flux"]), "--quick", "--json"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stderr == "[]\n"
    told = json.loads(done.stdout)
    assert told["recorded"] is None and told["network"] == "FluxTransformer2DModel" and len(told["parts"]) == 4


def test_a_folder_that_is_refused_ends_with_the_reason_and_code_2(folders, tmp_path):
    done = fewstep(tmp_path / "none", "--quick")
    assert done.returncode == 2 and done.stdout == "" and "no such teacher folder" in done.stderr
    KINDS["sd"].save(tmp_path / "cut")
    path = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    done = fewstep(tmp_path / "cut", "--json")
    assert done.returncode == 2 and "is incomplete" in json.loads(done.stdout)["error"]["message"]
    done = fewstep(folders["sd"], "--height", "32", "--quick")
    assert done.returncode == 2 and "give height and width" in done.stderr
    done = fewstep(folders["sd"], "--argument", "height")
    assert done.returncode == 2 and "NAME=VALUE" in done.stderr


@pytest.mark.parametrize("quick", [True, False])
def test_arguments_of_a_call_that_is_not_made_are_refused(folders, quick):
    kind = "sd" if quick else "unet"
    with pytest.raises(SettingsError, match="num_frames"):
        summarise(folders[kind], Encode(num_frames=9), quick=quick)


def test_students_that_left_as_pipelines_are_told_too(folders, summaries, tmp_path):
    plain, teacher = origin("unet"), load_teacher(folders["sd"])
    export_student(make_student(teacher, StudentSettings(), 0), tmp_path / "sd", teacher=folders["sd"])
    assert summarise(tmp_path / "sd").recorded == summaries["sd"].recorded
    several = join([make_student(plain, StudentSettings(), seed) for seed in (0, 1)])
    export_student(several, tmp_path / "several")
    told = summarise(tmp_path / "several")
    assert told.network == "RoutedUNet" and told.parameters == sum(one.numel() for one in several.parameters())
    export_student(make_student(teacher, StudentSettings(lora=LoraSettings(rank=2)), 0), tmp_path / "lora",
                   teacher=folders["sd"], form="lora")  # fmt: skip
    with pytest.raises(SettingsError, match="adapters beside its teacher's weights"):
        summarise(tmp_path / "lora")


def test_an_argument_that_the_pipeline_does_not_take_is_refused(folders):
    with pytest.raises(SettingsError, match="num_frames"):
        summarise(folders["sd"], Encode(num_frames=9))
