"""Whatever the files of a teacher's folder hold, it is taken or refused with an error that names it."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from fewstep.diffusion.processes import Process
from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.saving import save_teacher
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fuzzing import TIMEOUT, bounded, damaged, texts

pytestmark = TIMEOUT

INDEX, SCHEDULER, OURS = "model_index.json", "scheduler/scheduler_config.json", "fewstep.json"
CONFIGURATIONS = st.sampled_from([INDEX, "unet/config.json", SCHEDULER, OURS])
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[dict[str, bytes]]:
    """Files of teachers: of stock schedulers of every kind of process, and one that we saved."""
    made = []
    for number, scheduler in enumerate((DDPMScheduler(), FlowMatchEulerDiscreteScheduler(),
                                        EDMEulerScheduler(prediction_type="epsilon"))):  # fmt: skip
        folder = tmp_path_factory.mktemp("stock") / str(number)
        unet = new_unet(8, 1, 4, (8, 16), null_class=False)
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
        made.append(files_of(folder))
    folder = tmp_path_factory.mktemp("ours") / "saved"
    save_teacher(load_teacher(tmp_path_factory.getbasetemp() / "stock0" / "0"), folder)
    return [*made, files_of(folder)]


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def refused(error: SettingsError, folder: Path) -> None:
    assert str(folder) in str(error) and str(error).isprintable()


@bounded(80)
@given(data=st.data())
def test_configurations(folders, tmp_path_factory, data):
    files = dict(data.draw(st.sampled_from(folders)))
    for name in data.draw(st.lists(CONFIGURATIONS, min_size=1, max_size=2, unique=True)):
        if name in files:
            files[name], _ = data.draw(texts(json.loads(files[name]), originals=(files[name],)))
    folder = tmp_path_factory.mktemp("teacher")
    lay(folder, files)
    try:
        info = inspect_teacher(folder)
        assert all(type(side) is int and side > 0 for side in info.sample_shape or (1,))
        assert type(info.num_classes) is int and info.num_classes >= 0
        json.dumps(info.groups)
        if info.recorded:
            return
        teacher = load_teacher(folder)
    except SettingsError as error:
        return refused(error, folder)
    assert isinstance(teacher.process, Process) and teacher.process.kind == info.process
    assert teacher.sample_shape == info.sample_shape and teacher.num_classes == info.num_classes
    if max(info.sample_shape) <= 64:
        condition = torch.zeros(2, dtype=torch.long) if info.num_classes else None
        assert teacher.x0(torch.zeros(2, *info.sample_shape), 0.5, condition).shape == (2, *info.sample_shape)


@bounded(60)
@given(data=st.data())
def test_weights(folders, tmp_path_factory, data):
    files = dict(folders[0])
    length = struct.unpack("<Q", files[WEIGHTS][:8])[0]
    head, rest = files[WEIGHTS][8 : 8 + length], files[WEIGHTS][8 + length :]
    if data.draw(st.booleans()):
        head, _ = data.draw(texts(json.loads(head), originals=(head,)))
        files[WEIGHTS] = struct.pack("<Q", len(head)) + head + rest
    else:
        files[WEIGHTS] = data.draw(damaged(files[WEIGHTS]))
    folder = tmp_path_factory.mktemp("teacher")
    lay(folder, files)
    before = load_teacher(_whole(folders, tmp_path_factory)).network.state_dict()
    try:
        inspect_teacher(folder)
        after = load_teacher(folder).network.state_dict()
    except SettingsError as error:
        return refused(error, folder)
    assert before.keys() == after.keys() and all(before[name].shape == after[name].shape for name in before)


def _whole(folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "whole"
    if not folder.exists():
        folder.mkdir()
        lay(folder, folders[0])
    return folder


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory) -> dict[str, bytes]:
    """Files of a pipeline with encoders, whose weights are links where they are laid out."""
    folder = tmp_path_factory.mktemp("texts") / "saved"
    next(iter(KINDS.values())).save(folder)
    return files_of(folder)


@bounded(40)
@given(data=st.data())
def test_a_pipeline_with_encoders(of_texts, tmp_path_factory, data):
    files = dict(of_texts)
    kinds = (INDEX, "config.json", os.path.basename(SCHEDULER))
    name = data.draw(st.sampled_from([name for name in sorted(files) if os.path.basename(name) in kinds]))
    files[name], _ = data.draw(texts(json.loads(files[name]), originals=(files[name],)))
    folder = tmp_path_factory.mktemp("teacher")
    lay(folder, files)
    try:
        info = inspect_teacher(folder)
    except SettingsError as error:
        return refused(error, folder)
    assert info.parameters > 0 and type(info.num_classes) is int
