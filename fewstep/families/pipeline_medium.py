"""What a class of pipelines makes, as its call tells before anything is loaded."""

from __future__ import annotations

import inspect

from fewstep.data.medium import IMAGES, SOUND, VIDEOS, Medium

_FRAMES = {"num_frames", "frames", "num_videos_per_prompt", "video_length"}


def pipeline_medium(kind: type) -> Medium:
    """The medium of a pipeline's samples, by the arguments that its call takes."""
    known = inspect.signature(kind.__call__).parameters
    if _FRAMES & known.keys():
        return VIDEOS
    if "Audio" in kind.__name__ or any(name.startswith("audio_") for name in known):
        return SOUND
    return IMAGES
