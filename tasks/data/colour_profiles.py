"""Embedded colour profiles (ICC): the values of an image as sRGB, which is what images without a profile are taken for.

Rendering is relative colorimetric with black point compensation, as browsers do it. A profile that moves no colour by
more than a level of 8 bits is sRGB itself, and leaves the values as they are.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}     # of profiles, and the mode that Pillow converts from
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE     # threads share a transform, not its cache
ToSrgb = Callable[[Image.Image], Image.Image]


class UnusableProfile(Exception):
    """A profile does not say what the image's values mean; the text says why."""


def to_srgb(profile: bytes | None) -> ToSrgb:
    """What makes sRGB of an image of 8 bits in the mode L, RGB, RGBA or CMYK. Grey may stay L, alpha stays as it is.

    Raises UnusableProfile for a profile that is damaged or of a space that no such image has; what is returned raises
    it for an image of another space than the profile's.
    """
    return _converted(profile) if profile else lambda image: image.convert("RGB") if image.mode == "CMYK" else image


@functools.lru_cache(maxsize=64)
def _converted(profile: bytes) -> ToSrgb:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in _SPACES:
            raise UnusableProfile(f"its colour profile is of the space {space!r}, expected {', '.join(_SPACES)}")
        mode = _SPACES[space]
        transform = _transform(source, mode, "RGB")
        with_alpha = _transform(source, "RGBA", "RGBA") if mode == "RGB" else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfile(f"its colour profile cannot be used: {' '.join(str(error).split())}") from None
    nothing = mode != "CMYK" and _changes_nothing(transform, mode)

    def convert(image: Image.Image) -> Image.Image:
        alpha = image.mode == "RGBA"
        fits = {"RGB": image.mode != "CMYK", "L": image.mode == "L" or alpha and _is_neutral(image),
                "CMYK": image.mode == "CMYK"}[mode]  # fmt: skip
        if not fits:
            raise UnusableProfile(f"its colour profile is of the space {space}, its values are {image.mode}")
        if nothing:
            return image
        if mode == "RGB":
            return ImageCms.applyTransform(image if alpha else image.convert("RGB"), with_alpha if alpha else transform)
        if not alpha:
            return ImageCms.applyTransform(image, transform)
        grey = ImageCms.applyTransform(image.getchannel("R"), transform)
        grey.putalpha(image.getchannel("A"))
        return grey

    return convert


def _transform(source: ImageCms.ImageCmsProfile, mode: str, to: str) -> ImageCms.ImageCmsTransform:
    exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else 0     # a table for grey is ten levels off in the dark
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, to,
                                   ImageCms.Intent.RELATIVE_COLORIMETRIC, _FLAGS | exact)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    values = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    made = np.asarray(ImageCms.applyTransform(Image.fromarray(values), transform)).astype(int)
    return bool(np.abs(made - (values if mode == "RGB" else values[..., None]).astype(int)).max() <= 1)


def _is_neutral(image: Image.Image) -> bool:
    red, green, blue = (image.getchannel(band).tobytes() for band in "RGB")
    return red == green == blue
