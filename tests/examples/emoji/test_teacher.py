from pathlib import Path

import diffusers
import pytest
import torch

from examples.emoji.autoencoder import AutoencoderSettings, decode, encode, new_autoencoder, train_autoencoder
from examples.emoji.compositions import all_compositions
from examples.emoji.judge import real_pictures
from examples.emoji.teacher import TeacherSettings, new_pipeline, teacher_of, train_teacher
from examples.emoji.text_encoder import LENGTH, load_encoder
from fewstep.teachers.loading import load_teacher
from fewstep.util.errors import SettingsError

OBJECTS = 2
SMALL = TeacherSettings(channels=(16, 32), images=32, batch=8, lr=1e-3)
TINY = AutoencoderSettings(channels=(4, 8), steps=6, batch=4)
EVERY = all_compositions(OBJECTS)
CAPTIONS = [one.caption for one in EVERY]


@pytest.fixture(scope="module")
def pictures(font):
    return real_pictures(font, EVERY)


@pytest.fixture(scope="module")
def trained(encoder, pictures, tmp_path_factory) -> Path:
    """A teacher folder."""
    place = tmp_path_factory.mktemp("teacher")
    return train(place, encoder, pictures)


def train(place: Path, encoder: Path, pictures, settings: TeacherSettings = SMALL) -> Path:
    autoencoder = train_autoencoder(TINY, pictures, place / "autoencoder", every=2)
    folder = place / "teacher"
    if not folder.exists():
        new_pipeline(settings, autoencoder, encoder, size=32).save_pretrained(folder)
    train_teacher(settings, folder, encode(autoencoder, pictures), torch.arange(len(EVERY)), CAPTIONS,
                  checkpoints=place / "checkpoints", checkpoint_images=8)  # fmt: skip
    return folder


def test_the_folder_is_a_stock_pipeline_that_samples_by_prompt(trained):
    pipe = diffusers.DiffusionPipeline.from_pretrained(trained, local_files_only=True)
    assert type(pipe) is diffusers.StableDiffusionPipeline and pipe.tokenizer.model_max_length == LENGTH
    pipe.set_progress_bar_config(disable=True)
    images = pipe(CAPTIONS[:2], num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 32, 32) and torch.isfinite(torch.as_tensor(images)).all()


def test_the_teacher_predicts_what_the_stock_pipeline_steps(trained):
    teacher = teacher_of(trained, CAPTIONS)
    assert teacher.num_classes == len(CAPTIONS) and teacher.sample_shape == (4, 16, 16)
    pipe = diffusers.DiffusionPipeline.from_pretrained(trained, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    seen = {}

    def keep(_pipe, step, _time, tensors):
        seen[step] = tensors["latents"]
        return tensors

    pipe([CAPTIONS[5], CAPTIONS[9]], latents=x, guidance_scale=3.0, num_inference_steps=1, output_type="latent",
         callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["latents"])  # fmt: skip
    ours = teacher.predict(x, teacher.process.t_max, torch.tensor([5, 9]), 3.0).x0  # one step of DDIM from its end
    torch.testing.assert_close(ours, seen[0], rtol=1e-3, atol=1e-3)


def test_captions_are_told_apart_and_the_null_one_is_none(trained):
    teacher = teacher_of(trained, CAPTIONS)
    x, t = torch.zeros(3, 4, 16, 16), 0.5
    one, other, none = teacher.predict(x, t, torch.tensor([0, 1, teacher.null_class])).output
    assert not torch.equal(one, other) and not torch.equal(one, none)


def test_training_learns_and_is_the_same_again(trained, encoder, pictures, tmp_path):
    again = train(tmp_path / "again", encoder, pictures)
    first, second = (load_teacher(folder).state_dict() for folder in (trained, again))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    untrained = new_pipeline(SMALL, new_autoencoder(TINY), encoder, 32).unet.state_dict()
    assert any(not torch.equal(value, first[f"network.{name}"]) for name, value in untrained.items())


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(trained, encoder, pictures, tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, _total: int, _figures: dict) -> None:
        if done >= 16:
            raise Stop

    autoencoder = train_autoencoder(TINY, pictures, tmp_path / "autoencoder", every=2)
    folder = tmp_path / "teacher"
    new_pipeline(SMALL, autoencoder, encoder, size=32).save_pretrained(folder)
    with pytest.raises(Stop):
        train_teacher(SMALL, folder, encode(autoencoder, pictures), torch.arange(len(EVERY)), CAPTIONS,
                      checkpoints=tmp_path / "checkpoints", checkpoint_images=8, on_progress=stop)  # fmt: skip
    assert list((tmp_path / "checkpoints").glob("step-*.json"))
    resumed = train(tmp_path, encoder, pictures)
    whole, parts = load_teacher(trained).state_dict(), load_teacher(resumed).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_autoencoder_that_was_stopped_goes_on_to_the_same_bits_and_other_settings_are_refused(pictures, tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, _total: int, _figures: dict) -> None:
        if done == 2:
            raise Stop

    whole = train_autoencoder(TINY, pictures, tmp_path / "whole", every=2)
    with pytest.raises(Stop):
        train_autoencoder(TINY, pictures, tmp_path / "parts", stop, every=2)
    parts = train_autoencoder(TINY, pictures, tmp_path / "parts", every=2)
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())
    assert parts.config.scaling_factor == whole.config.scaling_factor
    with pytest.raises(SettingsError, match="of other settings or images"):
        train_autoencoder(TINY.model_copy(update={"kl": 1.0}), pictures, tmp_path / "parts")


def test_scaled_latents_have_unit_variance_and_come_back(pictures, tmp_path):
    network = train_autoencoder(TINY.model_copy(update={"steps": 80, "batch": 8, "lr": 1e-2}), pictures, tmp_path)
    latents = encode(network, pictures)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.01)
    left, before = ((decode(one, encode(one, pictures)) - pictures).square().mean() for one in
                    (network, new_autoencoder(TINY).eval()))  # fmt: skip
    assert left < 0.8 * before


def test_the_encoder_is_told_of_padding(encoder):
    tokenizer, text_encoder = load_encoder(encoder)
    assert max(len(tokenizer(caption).input_ids) for caption in CAPTIONS) <= LENGTH
    assert text_encoder.config.use_attention_mask and not any(p.requires_grad for p in text_encoder.parameters())
