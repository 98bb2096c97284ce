"""What the encode stage would refuse, found out from what is given, before anything is written. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.teachers.inspection import inspect_teacher
from fewstep.util.pixel_sizes import size_of_text
from tasks.config.outside import outside_paths
from tasks.config.schema import Settings
from tasks.data.given_prompts import read_given_prompts
from tasks.data.image_folder import list_images

if TYPE_CHECKING:
    from fewstep.data.prompt import Prompt
    from fewstep.families.family import Family


def require_encodable(root: Path, settings: Settings) -> None:
    """Raises SettingsError for texts that are too long, a negative text that nothing reads, a size that the teacher
    does not take, and a set above the size allowed, as far as that follows without the images themselves: the stage
    looks at those. The teacher's pipeline is loaded, but for its denoiser."""
    folder = outside_paths(settings, root)["teacher"]
    info = None if folder is None else inspect_teacher(folder, settings.teacher.variant)
    if info is None or not info.recorded:
        return
    from fewstep.families.recorded_family import record_family  # loads torch
    from fewstep.teachers.pipeline_loading import load_pipeline
    from fewstep.util.quiet_libraries import quiet_libraries
    from tasks.data.encoding_limits import count_truncated, require_bytes, require_negatives, require_own_size

    encode, sizes = settings.encode, list(map(size_of_text, settings.data.sizes or ()))
    require_own_size(encode, sizes)
    with quiet_libraries():
        pipe = load_pipeline(info)
        family = record_family(pipe, encode.of_call, sizes)
        prompts, images = _given(root, settings)
        prompts = prompts if family.fields else []      # nobody reads captions beside a teacher of classes
        require_negatives(encode, family, prompts)
        # the stage warns of what is allowed
        count_truncated(pipe, family, [one.text for one in prompts], encode.max_truncated_share, lambda _: None)
    require_bytes(_least_bytes(family, settings, len(prompts), images), encode, "would take at least")


def _given(root: Path, settings: Settings) -> tuple[list[Prompt], int]:
    """Different prompts and captions, and how many images there are."""
    paths, found, images = outside_paths(settings, root), [], 0
    if paths["images"] is not None:
        listing = list_images(paths["images"])
        found += [item.prompt for item in listing.items if item.prompt is not None]
        found += listing.prompts
        images = len(listing.items)
    if paths["prompts"] is not None:
        found += read_given_prompts(paths["prompts"]).prompts
    return list(dict.fromkeys(found)), images


def _least_bytes(family: Family, settings: Settings, prompts: int, images: int) -> int:
    """What the set takes at least: which size an image gets, and whether it can be read, is seen later."""
    from tasks.data.encoding_limits import condition_bytes, state_bytes  # loads torch

    nulls = min(prompts, 1) if family.images is None else prompts   # images stand beside no text too
    rows = prompts + (nulls if family.guidance is not None else 0)
    states = int(images * (1 - settings.data.max_corrupt_share)) if family.images is None else 0
    each = min(state_bytes(family.at(number), settings.encode) for number in range(len(family.sizes) + 1))
    return rows * condition_bytes(family, settings.encode) + states * each
