"""Calls of a pipeline to find out what its denoiser is given: arguments that are guided or not, of conditions that
anything would do for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fewstep.families.image_arguments import ImageArguments, candidates, image_inputs
from fewstep.families.recording import UNGUIDED, FirstStep, call_parameters, first_step, part_of
from fewstep.util.errors import SettingsError
from fewstep.util.pixel_sizes import size_text

COUNTS = (2, 3)
"""Samples of the two calls that tell what grows with their number."""
_SCALE = 5.0
_PROBES = ("a red apple", "two blue cars on a road", "a small green tree")


def tried(pipe: Any, fixed: Mapping[str, Any],
          pixels: tuple[int, int] | None = None) -> tuple[ImageArguments | None, list[FirstStep]]:  # fmt: skip
    """First steps for both of `COUNTS`, from texts, classes or nothing, and from images where there must be some.

    pixels: (height, width) that samples are to have where the call is told it by its images alone; None: those of the
    network.
    Raises SettingsError where no such call ends in a step, or where the images do more than stand in the condition.
    """
    names = image_inputs(type(pipe))
    try:
        return None, _steps(pipe, fixed, None)
    except SettingsError as error:
        if not names:
            raise
        why, off = _said(pipe, error), None
    for images in candidates(names, _sizes(pipe, fixed, pixels)):
        try:
            found = _steps(pipe, fixed, images)
        except SettingsError as error:
            why = _said(pipe, error)
            continue
        if _of_the_wanted_size(pipe, found[0], pixels):
            _require_conditions(pipe, fixed, images, found[0])
            return images, found
        if pixels is not None:
            off = f"samples of another size than {size_text(pixels)}"
    raise SettingsError(f"{type(pipe).__name__} takes {', '.join(names)}; tried with and without them, its call ends "
                        f"in: {off or why}", hint="take a pipeline of texts, classes, or one image for every sample")


def guided_step(pipe: Any, fixed: Mapping[str, Any], count: int, images: ImageArguments | None) -> FirstStep | None:
    """The first step under guidance; None for a pipeline whose call has none."""
    if not {"guidance_scale", "true_cfg_scale"} & call_parameters(pipe).keys():
        return None
    return first_step(pipe, call_arguments(pipe, {**fixed, **probe(pipe, count, images)}, guided=True), count)


def embedded_scale(pipe: Any, fixed: Mapping[str, Any], growing: list[str],
                   images: ImageArguments | None) -> str | None:  # fmt: skip
    """The keyword, of those that grow with the batch, whose value follows the pipeline's guidance scale."""
    if not embeds_guidance(pipe) or "guidance_scale" not in call_parameters(pipe):
        return None
    given = call_arguments(pipe, {**fixed, **probe(pipe, COUNTS[0], images)}, guided=False)
    calls = [first_step(pipe, {**given, "guidance_scale": scale}, COUNTS[0]).calls[0] for scale in (2.0, 4.0)]
    changed = [name for name in growing if not same(calls[0].get(name), calls[1].get(name))]
    if len(changed) > 1:
        raise SettingsError(f"{type(pipe).__name__}: {', '.join(changed)} follow the guidance scale; one is understood")
    return changed[0] if changed else None


def embeds_guidance(pipe: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input."""
    config = getattr(pipe, part_of(pipe)).config
    return bool(config.get("guidance_embeds")) or bool(config.get("time_cond_proj_dim"))


def default_scale(pipe: Any) -> float | None:
    """The guidance scale that a pipeline samples with where nobody says one."""
    parameter = call_parameters(pipe).get("guidance_scale")
    value = parameter.default if parameter is not None else None
    return float(value) if isinstance(value, int | float) else None


def probe(pipe: Any, count: int, images: ImageArguments | None = None,
          seeds: Mapping[str, int] | None = None) -> dict[str, Any]:  # fmt: skip
    """Conditions for `count` samples to record a pipeline with; seeds: of the images, by argument."""
    known = call_parameters(pipe)
    further = {} if images is None else images.of(images.some(seeds), count)
    if "class_labels" in known:
        return {"class_labels": list(range(1, count + 1))} | further
    if "prompt" in known:
        return {"prompt": list(_PROBES[:count])} | further
    return {"batch_size": count} | further


def unguided_scale(pipe: Any) -> float:
    """The guidance scale at which the pipeline's call is not guided: 1, but 0 where a pipeline adds the scale to 1, as
    it says itself of a scale that it was given."""
    known = getattr(type(pipe), "do_classifier_free_guidance", None)
    if not isinstance(known, property):
        return UNGUIDED
    before, guided = getattr(pipe, "_guidance_scale", None), {}
    try:
        for pipe._guidance_scale in (0.0, UNGUIDED):
            guided[pipe._guidance_scale] = bool(pipe.do_classifier_free_guidance)
    except AttributeError:      # it looks at more of a call than the scale
        return UNGUIDED
    finally:
        pipe._guidance_scale = before
    return 0.0 if guided[UNGUIDED] and not guided[0.0] else UNGUIDED


def call_arguments(pipe: Any, arguments: Mapping[str, Any], guided: bool) -> dict[str, Any]:
    """Arguments of a call that is guided or not; an embedded scale keeps its default."""
    known = call_parameters(pipe)
    found = dict(arguments)
    count = next((len(value) for value in found.values() if isinstance(value, list)), found.get("batch_size", 1))
    if "true_cfg_scale" in known:
        if guided:
            found |= {"true_cfg_scale": _SCALE}
            found.setdefault("negative_prompt", [""] * count)
        else:
            found |= {"true_cfg_scale": UNGUIDED}
    elif "guidance_scale" in known and not embeds_guidance(pipe):
        found["guidance_scale"] = _SCALE if guided else unguided_scale(pipe)
    if not guided:
        found = {name: value for name, value in found.items() if not name.startswith("negative")}
    return found


def _steps(pipe: Any, fixed: Mapping[str, Any], images: ImageArguments | None) -> list[FirstStep]:
    return [first_step(pipe, call_arguments(pipe, {**fixed, **probe(pipe, count, images)}, guided=False), count,
                       second=True) for count in COUNTS]  # fmt: skip


def _said(pipe: Any, error: SettingsError) -> str:
    return str(error).removeprefix(f"{type(pipe).__name__}: ")


def told_size(pipe: Any) -> bool:
    """Whether the pipeline's call is told the size of its samples; else an image tells it."""
    return {"height", "width"} <= call_parameters(pipe).keys()


def _scale(pipe: Any) -> int:
    """Sides of a sample by those of its state."""
    return getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None) or 1


def _sizes(pipe: Any, fixed: Mapping[str, Any], pixels: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Sizes of images to try: of the samples; where the call takes no size, first that, then that of the states."""
    side, scale = getattr(pipe, part_of(pipe)).config.get("sample_size"), _scale(pipe)
    sides = [(side, side) if isinstance(side, int) else tuple(side[-2:])] if side else []
    samples = [(height * scale, width * scale) for height, width in sides]
    known = call_parameters(pipe)
    if not told_size(pipe):
        return samples + sides if pixels is None else [tuple(pixels), (pixels[0] // scale, pixels[1] // scale)]
    told = tuple(fixed.get(name) or known[name].default for name in ("height", "width"))
    return [told] if all(isinstance(value, int) for value in told) else samples


def _of_the_wanted_size(pipe: Any, step: FirstStep, pixels: tuple[int, int] | None) -> bool:
    """Whether the states, in a pipeline that takes the size of its images, are those of samples of `pixels`; without,
    of the network's."""
    side, found = getattr(pipe, part_of(pipe)).config.get("sample_size"), tuple(step.state.shape[-2:])
    if told_size(pipe):
        return True
    if pixels is not None:
        return tuple(side * _scale(pipe) for side in found) == tuple(pixels)
    return not isinstance(side, int) or found == (side, side)


def _require_conditions(pipe: Any, fixed: Mapping[str, Any], images: ImageArguments, step: FirstStep) -> None:
    """Raises SettingsError for an image that changes the state that sampling begins at, or nothing that the denoiser is
    given: then the pipeline does with it what a student's would not."""
    for name in images.names:
        arguments = {**fixed, **probe(pipe, COUNTS[0], images, {name: 1})}
        other = first_step(pipe, call_arguments(pipe, arguments, guided=False), COUNTS[0])
        if not torch.equal(other.state, step.state):
            raise SettingsError(f"{type(pipe).__name__}: sampling begins at a state that {name} changes, not at noise",
                                hint='where its call has a strength, set encode.arguments to {"strength": 1.0}')
        if all(same(one, other.calls[0].get(key)) for key, one in step.calls[0].items()):
            raise SettingsError(f"{type(pipe).__name__}: {name} changes nothing that the denoiser is given, so that it "
                                "is no condition", hint="take a pipeline whose network is given the image")  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Whether two arguments of a denoiser are equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    return not isinstance(one, torch.Tensor) and not isinstance(other, torch.Tensor) and one == other
