"""A network's configuration is held to what diffusers knows before any weight is read."""

import json

import pytest

from fewstep.families.parts_placement import autoencoder_of
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline, probe_network
from fewstep.util.errors import SettingsError
from tests.fewstep.families.further_pipelines import FURTHER
from tests.fewstep.families.pipelines import KINDS


@pytest.mark.parametrize(("further", "said"), [
    ({"brand_new_gate": 3}, "brand_new_gate: UNet2DConditionModel of diffusers"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "weights of this UNet2DConditionModel are quantised"),
])
def test_what_would_be_lost_is_refused_without_weights(tmp_path, further, said):
    KINDS["sd"].save(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | further))
    with pytest.raises(SettingsError, match=said):
        probe_network(tmp_path / "unet", "UNet2DConditionModel")
    with pytest.raises(SettingsError, match=said):
        load_pipeline(inspect_teacher(tmp_path))


def test_a_part_that_the_folder_has_not_is_none(tmp_path):
    FURTHER["without_an_encoder"].save(tmp_path)
    pipe = load_pipeline(inspect_teacher(tmp_path))
    assert pipe.text_encoder_3 is None and pipe.text_encoder_2 is not None


def test_an_autoencoder_is_found_by_any_name():
    pipe = FURTHER["kandinsky3"].build()
    assert autoencoder_of(pipe) is pipe.movq
    assert autoencoder_of(KINDS["sd"].build()) is not None
