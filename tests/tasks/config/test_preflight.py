"""Teacher and data are compared, and images looked at, before the first stage."""

import json
import struct
from pathlib import Path

import pytest

from fewstep.families.pipeline_medium import pipeline_medium
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.preflight import validate
from tasks.config.schema import Data, Settings
from tasks.data.image_folder import list_images
from tests.fewstep.families.pipelines import KINDS, LINES


def teacher(folder: Path, classes: int | None, size: int = 8, channels: int = 1) -> Path:
    """A folder as diffusers saves it, with one parameter."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    files = {
        "model_index.json": {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
                             "scheduler": ["diffusers", "DDPMScheduler"]},
        "unet/config.json": {"sample_size": size, "in_channels": channels, "num_class_embeds": classes},
        "scheduler/scheduler_config.json": {"_class_name": "DDPMScheduler"},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    return folder


def check(root: Path, **sections) -> None:
    validate(root, parse(Settings, sections, "params.yaml"))


def images(root: Path, *classes: str, each: int = 4) -> None:
    for name in classes:
        for number in range(each):
            path = root / "data" / "raw" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not opened")


@pytest.mark.parametrize(("made", "said"), [
    ({"classes": 11}, "knows 11 classes, the images have 10: .*a label for 'no class' counts"),
    ({"classes": 9}, "knows 9 classes, the images have 10"),
    ({"classes": 10, "size": 16}, r"shape \(1, 16, 16\), the data's are \(1, 8, 8\)"),
    ({"classes": 10, "channels": 3}, r"shape \(3, 8, 8\), the data's are \(1, 8, 8\)"),
])  # fmt: skip
def test_a_teacher_of_other_data(tmp_path, made, said):
    source = teacher(tmp_path / "teacher", **made)
    with pytest.raises(SettingsError, match=said):
        check(tmp_path, teacher={"source": str(source)})


@pytest.mark.parametrize("classes", [10, None])
def test_a_teacher_that_fits(tmp_path, classes):
    check(tmp_path, teacher={"source": str(teacher(tmp_path / "teacher", classes))})


def test_a_teacher_and_own_images(tmp_path):
    source = str(teacher(tmp_path / "teacher", 3, 32, 3))
    images(tmp_path, "0", "1", "2")
    check(tmp_path, teacher={"source": source}, data={"source": "raw"})
    with pytest.raises(SettingsError, match=r"\(3, 32, 32\), the data's are \('\?', 16, 16\)"):
        check(tmp_path, teacher={"source": source}, data={"source": "raw", "size": 16})
    images(tmp_path, "3")
    with pytest.raises(SettingsError, match="knows 3 classes, the images have 4"):
        check(tmp_path, teacher={"source": source}, data={"source": "raw"})


def test_a_class_of_one_image(tmp_path):
    images(tmp_path, "cat", "dog")
    images(tmp_path, "owl", each=1)
    with pytest.raises(SettingsError, match=r"one image only in 1 of 3 classes \(owl\)"):
        check(tmp_path, data={"source": "raw"})


def test_images_left_out(tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "data" / "raw" / "cat" / "0.heic").write_bytes(b"")
    with pytest.raises(SettingsError, match="1 .heic .*1 of 9 files"):
        check(tmp_path, data={"source": "raw"})
    check(tmp_path, data={"source": "raw", "max_corrupt_share": 0.2})


def test_an_export_that_the_recipe_cannot_have(tmp_path):
    check(tmp_path, distill={"recipe": "kd", "export": "network"})
    with pytest.raises(SettingsError, match="distill.export: .*trains none"):
        check(tmp_path, distill={"recipe": "kd", "export": "lora"})
    check(tmp_path, distill={"recipe": "lcm-lora", "export": "lora"})


@pytest.mark.parametrize(("kind", "extractor", "said"), [
    (None, "clap", "evaluate.extractors.clap is made for sound, the models make images"),
    ("sd", "clap_tokenizer", "evaluate.extractors.clap_tokenizer is made for sound, the models make images"),
    ("wan", "clap", "evaluate.extractors.clap is made for sound, the models make videos"),
    ("stable_audio", "clip", "evaluate.extractors.clip is made for images, the models make sound"),
])
def test_an_extractor_of_another_medium(tmp_path, kind, extractor, said):
    sections = {"evaluate": {"extractors": {extractor: "0" * 64}}}
    if kind is not None:
        KINDS[kind].save(tmp_path / "teacher")
        (tmp_path / "prompts.txt").write_text("\n".join(f"{line} {k}" for line in LINES for k in range(4)))
        sections |= {"teacher": {"source": "teacher"}, "data": {"prompts": "prompts.txt"}, "distill": {"recipe": "tdm"}}
    with pytest.raises(SettingsError, match=said):
        check(tmp_path, **sections)


def test_the_media_of_pipelines():
    assert {kind: pipeline_medium(type(one.build())) for kind, one in KINDS.items()} == {
        **dict.fromkeys(KINDS, "images"), "wan": "videos", "ltx": "videos", "cogvideox": "videos",
        "stable_audio": "sound"}  # fmt: skip


@pytest.mark.parametrize(("table", "data", "said"), [
    ("file_name,caption\na.png,a\n", {"prompts": "p.txt"}, "by a captioned image, and data.prompts has none"),
    ("file_name,caption\na.png,a\n", {"source": "digits"}, "by a captioned image, and data.source is digits"),
    ("file_name,caption\na.png,a\nb.png,b\n", {}, "the teacher is given no image beside its class"),
])
def test_conditions_with_images(tmp_path, table, data, said):
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (raw / name).write_bytes(b"not opened")
    (raw / "metadata.csv").write_text(table)
    with pytest.raises(SettingsError, match=said):
        check(tmp_path, data={"source": "raw", "conditions": "image", **data})


def test_images_without_captions_are_no_conditions_with_images(tmp_path):
    images(tmp_path, "1", "2")
    with pytest.raises(SettingsError, match="data.conditions is image, and 8 images have no caption, such as 1/0.png"):
        list_images(tmp_path / "data" / "raw").require_usable(Data(source="raw", conditions="image"))


def test_conditions_with_images_of_a_teacher_of_texts(tmp_path):
    KINDS["sd"].save(tmp_path / "teacher")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "a.png").write_bytes(b"not opened")
    (tmp_path / "data" / "raw" / "metadata.csv").write_text("file_name,caption\na.png,a\n")
    with pytest.raises(SettingsError, match="StableDiffusionPipeline is given texts or classes alone"):
        check(tmp_path, data={"source": "raw", "conditions": "image"}, teacher={"source": "teacher"},
              distill={"recipe": "kd"})  # fmt: skip
