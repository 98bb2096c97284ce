"""Images with an embedded colour profile are taken as sRGB, against values computed from the profile's definition."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from tasks.data.image_decoding import Unreadable, to_array
from tests.icc_profiles import SRGB, cmyk_profile, encoded, grey_profile, rgb_as_srgb, rgb_profile

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
STANDARD = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def decoded(image: Image.Image, kind: str, profile: bytes, channels: int = 3) -> np.ndarray:
    """Levels (16, 16, channels) of the image, stored with the profile and read again."""
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    found, _ = to_array(Image.open(io.BytesIO(buffer.getvalue())), [(16, 16)], channels)
    return found.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_wide_gamut_becomes_srgb(kind):
    smooth = np.stack(np.meshgrid(np.arange(16) * 17, np.arange(16) * 17), -1).astype(np.uint8)
    values = np.stack([smooth[..., 0], np.full((16, 16), 90, np.uint8), smooth[..., 1]], -1)
    found, true = decoded(Image.fromarray(values), kind, rgb_profile()), rgb_as_srgb(values)
    assert np.abs(found - true).max() <= (12 if kind == "JPEG" else 1.5)
    assert np.abs(found - values).max() > 25


def test_grey_proportional_to_light_becomes_srgb():
    true = encoded(RAMP / 255.0)
    for channels in (1, 3):
        found = decoded(Image.fromarray(RAMP), "PNG", grey_profile(), channels)
        assert np.abs(found - true[..., None]).max() <= 1.5
    assert decoded(Image.fromarray(np.full((16, 16), 55, np.uint8)), "PNG", grey_profile(), 1)[0, 0, 0] == 128


def test_ink_is_what_its_profile_says():
    for ink, lightness in ((0, 100.0), (128, 100 * (1 - 128 / 255)), (255, 0.0)):
        light = ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3
        found = decoded(Image.new("CMYK", (16, 16), (0, 0, 0, ink)), "TIFF", cmyk_profile())
        assert np.abs(found - encoded(np.array(light))).max() <= 2
    plain = Image.new("CMYK", (16, 16), (0, 0, 0, 128))
    assert np.array(plain.convert("RGB"))[0, 0, 0] == 127     # what the same ink is without a profile


def test_srgb_itself_changes_no_bit_and_a_power_law_in_its_place_does():
    assert np.array_equal(decoded(Image.fromarray(COLOUR), "PNG", STANDARD), COLOUR)
    power = 563 / 256
    found = decoded(Image.fromarray(COLOUR), "PNG", rgb_profile(SRGB, power))
    assert np.abs(found - rgb_as_srgb(COLOUR, SRGB, power)).max() <= 1.5 and np.abs(found - COLOUR).max() > 5


def test_alpha_is_laid_on_white_after_the_conversion():
    values = np.concatenate([COLOUR, np.full((16, 16, 1), 128, np.uint8)], -1)
    found = decoded(Image.fromarray(values, "RGBA"), "PNG", rgb_profile())
    true = rgb_as_srgb(COLOUR) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found - true).max() <= 2
    grey = np.stack([RAMP, np.full_like(RAMP, 128)], -1)
    found = decoded(Image.fromarray(grey, "LA"), "PNG", grey_profile(), 1)[..., 0]
    assert np.abs(found - (encoded(RAMP / 255.0) * (128 / 255) + 255 * (127 / 255))).max() <= 2


def test_grey_under_a_profile_of_colour_and_a_palette():
    found = decoded(Image.fromarray(RAMP), "PNG", rgb_profile(), 1)[..., 0]
    assert np.abs(found - rgb_as_srgb(np.stack([RAMP] * 3, -1))[..., 0]).max() <= 1.5
    palette = Image.fromarray(COLOUR).quantize(16)
    found = decoded(palette, "PNG", rgb_profile())
    assert np.abs(found - rgb_as_srgb(np.array(palette.convert("RGB")))).max() <= 1.5


def test_sixteen_bits_of_grey_are_converted():
    found = decoded(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG", grey_profile(), 1)[..., 0]
    assert np.abs(found - encoded(RAMP / 255.0)).max() <= 1.5


@pytest.mark.parametrize(("image", "kind", "profile", "said"), [
    (Image.new("RGB", (16, 16)), "PNG", b"not a profile", "its colour profile cannot be used"),
    (Image.new("RGB", (16, 16)), "PNG", rgb_profile()[:200], "its colour profile cannot be used"),
    (Image.new("RGB", (16, 16), "red"), "PNG", grey_profile(), "of the space GRAY, its values are RGB"),
    (Image.new("RGB", (16, 16)), "PNG", cmyk_profile(), "of the space CMYK, its values are RGB"),
    (Image.new("CMYK", (16, 16)), "TIFF", rgb_profile(), "of the space RGB, its values are CMYK"),
    (Image.new("RGB", (16, 16)), "PNG", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "'Lab'"),
])  # fmt: skip
def test_a_profile_that_does_not_say_what_the_values_mean_is_refused(image, kind, profile, said):
    with pytest.raises(Unreadable, match=said):
        decoded(image, kind, profile)
