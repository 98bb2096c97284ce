"""What is no teacher is refused before any work, by path, without torch, executing or unpickling nothing."""

import inspect
import json
import shutil
import subprocess
import sys

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import inspect_teacher, load_teacher, scheduler_config
from fewstep.util.errors import SettingsError

NEEDS_TORCHSDE = {"CosineDPMSolverMultistepScheduler"}  # a stub that takes anything where torchsde is absent
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "saved"
    DDPMPipeline(unet=new_unet(8, 1, 4, (8, 16), null_class=False), scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "teacher")


def refused(folder, *words: str) -> SettingsError:
    for look in (inspect_teacher, load_teacher):
        with pytest.raises(SettingsError) as caught:
            look(folder)
        for word in words:
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)
    return caught.value


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_folder_tells_what_it_holds(folder):
    info = inspect_teacher(str(folder))
    assert (info.pipeline, info.scheduler, info.process) == ("DDPMPipeline", "DDPMScheduler", "variance_preserving")
    assert info.prediction_type == "epsilon" and info.sample_shape == (1, 8, 8)
    assert (info.num_classes, info.null_class) == (4, None)
    assert [path.name for path in info.weights] == ["diffusion_pytorch_model.safetensors"]


def test_looking_imports_no_torch(folder):
    code = (
        f"import sys; from fewstep.teachers import inspect_teacher; inspect_teacher({str(folder)!r})\n"
        "import fewstep.diffusion.solvers, fewstep.students.sampler_settings\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, str(folder / name))


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_broken_file_is_named(folder, name, text):
    (folder / name).write_text(text)
    refused(folder, str(folder / name), "JSON")


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "no such teacher folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "file")


def test_pickled_weights_are_refused_and_not_opened(folder):
    (folder / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    error = refused(folder, "diffusion_pytorch_model.bin", "pickled")
    assert "safe_serialization" in error.hint


@pytest.mark.parametrize("keep", [0, 4, 9, 200, -1])
def test_weights_that_are_cut_short_are_refused(folder, keep):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, str(path))


def test_weights_with_a_broken_header_are_refused(folder):
    path = folder / WEIGHTS
    good = path.read_bytes()
    for bad in (b"\xff" * 8 + good[8:], good[:8] + b"x" + good[9:], good + b"tail"):
        path.write_bytes(bad)
        refused(folder, str(path))


def test_weights_of_another_network_are_refused(folder):
    edit(folder / "unet" / "config.json", block_out_channels=[8, 24])
    with pytest.raises(SettingsError, match="unet"):
        load_teacher(folder)


def test_weights_with_a_tensor_missing_are_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    del weights["conv_in.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match="conv_in.weight"):
        load_teacher(folder)


def test_other_kinds_of_pipelines_are_refused(folder):
    index = folder / "model_index.json"
    edit(index, vae=["diffusers", "AutoencoderKL"])
    refused(folder, str(folder / "vae"), "missing", "model_index.json")
    edit(index, vae=None, transformer=["diffusers", "DiTTransformer2DModel"])
    refused(folder, str(index), "scheduler, transformer, unet", "one denoiser")
    edit(index, transformer=None, unet=None, decoder=["diffusers", "UNet2DModel"])
    refused(folder, str(index), "decoder, scheduler", "one denoiser")
    edit(index, decoder=None, unet=["my_module", "UNet2DModel"])
    refused(folder, str(index), "my_module.UNet2DModel")


def test_code_in_the_folder_is_refused_and_not_executed(folder):
    edit(folder / "model_index.json", helper=["helper", "Helper"])
    (folder / "helper").mkdir()
    (folder / "helper" / "helper.py").write_text("raise SystemExit('executed')")
    error = refused(folder, str(folder / "helper" / "helper.py"), "never executed", "no setting changes that")
    assert "of diffusers and transformers" in error.hint


def test_unknown_schedulers_predictions_and_labels_are_refused(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    edit(path, _class_name="VQDiffusionScheduler")
    refused(folder, str(path), "VQDiffusionScheduler")
    edit(path, _class_name="DDPMScheduler", prediction_type="other")
    refused(folder, str(path), "'other'")
    edit(path, prediction_type="epsilon")
    edit(folder / "unet" / "config.json", class_embed_type="timestep")
    refused(folder, "class_embed_type 'timestep'")
    edit(folder / "unet" / "config.json", class_embed_type=None, time_embedding_type="learned")
    refused(folder, "time_embedding_type 'learned'")
    edit(folder / "unet" / "config.json", time_embedding_type="positional", sample_size=None)
    refused(folder, "sample_size")


@pytest.mark.parametrize(("name", "changes", "word"), [
    ("EulerDiscrete", {"timestep_type": "continuous", "prediction_type": "v_prediction"}, "timestep_type"),
    ("DDIM", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ("EulerDiscrete", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ("PNDM", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "rescale_betas_zero_snr"),
    ("DDPM", {"trained_betas": [0.1, 1.0], "num_train_timesteps": 2}, "trained_betas"),
    ("DDPM", {"beta_end": 1.0}, "beta_end"), ("DDPM", {"beta_end": "0.02"}, "beta_end"),
    ("DDPM", {"trained_betas": [0.1, 0.2]}, "trained_betas"), ("DDPM", {"num_train_timesteps": 1.5}, "num_train"),
    ("DDPM", {"prediction_type": "flow_prediction"}, "prediction_type"),
    ("DDPM", {"predict_epsilon": False}, "predict_epsilon"), ("DDPM", {"time_warp": 2.0}, "time_warp"),
    ("DPMSolverMultistep", {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, "prediction_type"),
    ("DPMSolverMultistep", {"use_flow_sigmas": True, "prediction_type": "other"}, "'other'"),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "invert_sigmas"),
    ("EDMEuler", {"prediction_type": "sample"}, "prediction_type"), ("EDMEuler", {"sigma_data": 0}, "sigma_data"),
    ("EDMEuler", {"sigma_data": None}, "sigma_data"), ("EDMEuler", {"rho": "7"}, "rho"),
    ("CosineDPMSolverMultistep", {"sigma_min": None}, "sigma_min"), ("CMStochasticIterative", {"rho": 0}, "rho"),
])  # fmt: skip
def test_what_a_scheduler_says_and_is_not_understood_is_refused_by_name(folder, name, changes, word):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": f"{name}Scheduler", **changes}))
    refused(folder, str(path), word)


def test_a_schedule_of_betas_that_diffusers_does_not_know_is_named(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    edit(path, beta_schedule="zigzag")
    with pytest.raises(SettingsError, match="scheduler_config.json.*zigzag"):
        load_teacher(folder)


@pytest.mark.parametrize("changes", [
    {"tensor_format": "pt", "timestep_values": None}, {"predict_epsilon": True}, {"a_key_left_out": None},
    {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 80.0, "timestep_spacing": "trailing"},
])  # fmt: skip
def test_keys_that_say_how_to_sample_are_taken(folder, changes):
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    assert load_teacher(folder).process.timesteps == 1000


def test_every_key_of_the_stock_schedulers_is_known_and_so_is_who_rescales():
    names = scheduler_config.KNOWN_SCHEDULERS - NEEDS_TORCHSDE
    keys = {name: set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"} for name in names}
    assert set().union(*keys.values()) <= scheduler_config._MEANING | scheduler_config._SAMPLING
    assert {name for name in names if "rescale_betas_zero_snr" in keys[name]} == scheduler_config.ZERO_SNR_SCHEDULERS


def test_the_chain_at_zero_terminal_snr_is_the_same_whichever_scheduler_names_it(folder):
    path, found = folder / "scheduler" / "scheduler_config.json", set()
    for name in sorted(scheduler_config.ZERO_SNR_SCHEDULERS - scheduler_config.SHIFTED_SCHEDULERS):
        betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
        path.write_text(json.dumps({"_class_name": name, "rescale_betas_zero_snr": True, **betas,
                                    "prediction_type": "v_prediction"}))  # fmt: skip
        found.add(load_teacher(folder).process.alphas_cumprod)
    (table,) = found
    assert table[-1] < 1e-11 and table[-2] > 1e-9


def test_sharded_weights_are_followed_within_the_folder_only(folder):
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    (folder / WEIGHTS).rename(folder / "unet" / shard)
    from safetensors import safe_open

    with safe_open(folder / "unet" / shard, "pt") as file:
        names = list(file.keys())
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}))
    assert [path.name for path in inspect_teacher(folder).weights] == [shard]
    assert load_teacher(folder).num_classes == 4
    for bad in (dict.fromkeys(names, f"../unet/{shard}"), {}, ["x"]):
        index.write_text(json.dumps({"weight_map": bad}))
        refused(folder, str(index), "weight_map")


def test_a_description_of_another_format_is_refused(folder):
    path = folder / "fewstep.json"
    path.write_text(json.dumps({"format": "fewstep/999"}))
    refused(folder, str(path), "fewstep/999")
    path.write_text(json.dumps({"format": "fewstep/1", "process": {"kind": "edm"}}))
    refused(folder, str(path), "incomplete")


def test_unusual_global_state_is_left_alone(folder):
    before = torch.get_rng_state()
    inspect_teacher(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_diffusers_would_ignore_in_a_network_is_refused_by_name(folder):
    edit(folder / "unet" / "config.json", center_input_sampel=True)
    with pytest.raises(SettingsError, match="center_input_sampel: UNet2DModel of diffusers .* knows no such key"):
        load_teacher(folder)
    edit(folder / "unet" / "config.json", center_input_sampel=False, an_option=None)    # say nothing
    load_teacher(folder)


@pytest.mark.parametrize(("changes", "said"), [
    ({"layers_per_block": 10**6}, "layers_per_block 1000000: the files hold"),
    ({"block_out_channels": [8, 160_000]}, "weights, the files hold"),
    ({"norm_num_groups": 0}, "cannot be loaded"), ({"act_fn": None}, "cannot be loaded"),
    ({"num_class_embeds": "ten"}, "num_class_embeds 'ten' is no number of classes"),
    ({"sample_size": True}, "sample_size"), ({"_class_name": None}, "is no network of diffusers"),
])  # fmt: skip
def test_a_network_of_other_numbers_is_refused_before_it_takes_the_memory(folder, changes, said):
    edit(folder / "unet" / "config.json", **changes)
    with pytest.raises(SettingsError) as caught:
        load_teacher(folder)
    assert said in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("part", [["diffusers"], ["diffusers", 1], [["a"], "b"], [None, "UNet2DModel"], ["", "x"]])
def test_a_part_that_is_no_library_and_class_is_refused(folder, part):
    edit(folder / "model_index.json", unet=part)
    refused(folder, "model_index.json: unet: expected the part's library and class")


def test_keys_that_stand_there_twice_are_refused(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("{", '{"prediction_type": "sample",', 1))
    refused(folder, str(path), "the key 'prediction_type' stands there twice")


@pytest.mark.parametrize("odd", ["[" * 300, "x" * 5000])
def test_a_name_that_no_file_can_have_is_refused_as_any_other_is(folder, odd):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for changed in ({**index, "scheduler": [odd, index["scheduler"][1]]}, {**index, odd: index["unet"]}):
        path.write_text(json.dumps(changed))
        try:
            inspect_teacher(folder)
        except SettingsError as error:
            assert str(folder) in str(error)
