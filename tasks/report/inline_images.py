"""Arrays of small images as PNG, inside the page or beside it: one picture per grid, enlarged without smoothing."""

import base64
import io

import numpy as np
from PIL import Image

_GAP = 2
_LARGE = 32  # pixels from which an image is shown at its own size


def scale_of(size: int) -> int:
    """Whole factor by which images of this size are enlarged."""
    return max(1, _LARGE // size)


def atlas(rows: list[np.ndarray]) -> tuple[str, int, int]:
    """`picture` as a data URI, and its width and height in pixels."""
    made = picture(rows)
    return data_uri(made), made.width, made.height


def picture(rows: list[np.ndarray]) -> Image.Image:
    """A grid of images.

    Args:
        rows: each (columns, C, H, W) uint8, C 1 or 3; all images of one size. Gaps, and the ends of short rows, are
            transparent.
    """
    height, width = rows[0].shape[-2:]
    scale = scale_of(max(height, width))
    step_y, step_x = height * scale + _GAP, width * scale + _GAP
    columns = max(len(row) for row in rows)
    canvas = np.zeros((len(rows) * step_y - _GAP, columns * step_x - _GAP, 4), dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            pixels = np.repeat(np.repeat(image.transpose(1, 2, 0), scale, axis=0), scale, axis=1)
            cell = canvas[i * step_y : i * step_y + height * scale, j * step_x : j * step_x + width * scale]
            cell[..., :3], cell[..., 3] = pixels, 255
    grey = bool((canvas[..., 0] == canvas[..., 1]).all() and (canvas[..., 1] == canvas[..., 2]).all())
    return Image.fromarray(canvas[..., [0, 3]] if grey else canvas, "LA" if grey else "RGBA")


def png(image: Image.Image) -> bytes:
    """Its PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
