"""A family: what a kind of pipeline wants of its denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fewstep.diffusion.network_call import NetworkCall, from_json, to_json
from fewstep.families.image_arguments import ImageArguments
from fewstep.families.recording import UNGUIDED
from fewstep.util.errors import SettingsError

Form = Literal["joint", "sequential"]

@dataclass(frozen=True)
class Field:
    """A tensor of a condition: shape of one row and dtype (torch's name)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SampleSize:
    """A further size that a pipeline's call is asked for.

    pixels: (height, width) of a sample. state: shape of one state. constants: of the denoiser's call there. image:
    (height, width) of the images that a condition has; None without. fields: of a condition, those that have another
    shape there.
    """

    pixels: tuple[int, int]
    state: tuple[int, ...]
    constants: Mapping[str, Any]
    image: tuple[int, int] | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What a pipeline's denoiser takes.

    Attributes:
        pipeline: class of the pipeline. part: its denoiser, `unet` or `transformer`.
        state: shape of one state, in the sampler's own layout.
        call: how the denoiser is called.
        time_factor: what the denoiser is given is the scheduler's timestep times this, plus `time_offset`.
        fields: of a condition, by keyword; empty where conditions are labels.
        guidance: how the pipeline evaluates both branches; None for one without a null condition.
        classes: labels of a class-conditional denoiser, 0 for others; the label after them is the null one.
        arguments: of the pipeline's call, under which all this holds (sizes, frames, tokens).
        prompts: shapes of what its `encode_prompt` returns (recording.structure), so that decoding needs no encoder.
        own_sigmas: whether the pipeline gives its scheduler even noise levels 1 … 1/N of its own.
        shift: of a flow's noise levels, as the pipeline samples: t becomes shift t / (1 + (shift − 1) t).
        images: that every condition has beside its text; None without.
        sizes: further sizes of samples, beside the one that all else tells of (aspect buckets).
        own_pixels: (height, width) of samples of its own size, where there are further ones and the pipeline's call is
            told the size by an image alone.
        unguided: guidance scale of the pipeline's call that means none, or under which the fields are recorded.
    """

    pipeline: str
    part: str
    state: tuple[int, ...]
    call: NetworkCall
    time_factor: float
    fields: Mapping[str, Field]
    guidance: Form | None
    classes: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prompts: Any = None
    own_sigmas: bool = False
    shift: float = 1.0
    images: ImageArguments | None = None
    sizes: tuple[SampleSize, ...] = ()
    own_pixels: tuple[int, int] | None = None
    time_offset: float = 0.0
    unguided: float = UNGUIDED

    def at(self, number: int) -> Family:
        """The family as it is at one size: number k ≥ 1 is `sizes[k − 1]`, 0 its own."""
        if not number:
            return self
        size = self.sizes[number - 1]
        arguments = self.arguments if self.own_pixels else sized(self.arguments, size.pixels)
        images = self.images if size.image is None else replace(self.images, size=size.image)
        return replace(self, state=size.state, call=replace(self.call, constants=size.constants), sizes=(),
                       arguments=arguments, images=images, fields={**self.fields, **size.fields}, own_pixels=None)

    @property
    def pixels(self) -> list[tuple[int, int]]:
        """(height, width) of all sizes by number, where there are several; else empty."""
        if not self.sizes:
            return []
        own = self.own_pixels or (self.arguments["height"], self.arguments["width"])
        return [own, *(size.pixels for size in self.sizes)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "pipeline": self.pipeline, "part": self.part, "state": list(self.state), "call": self.call.to_dict(),
            "time_factor": self.time_factor, "guidance": self.guidance, "classes": self.classes,
            "fields": _fields_to_dict(self.fields),
            "arguments": dict(self.arguments), "prompts": self.prompts, "own_sigmas": self.own_sigmas,
            "shift": self.shift, "images": None if self.images is None else self.images.to_dict(),
            **({"sizes": [_size_to_dict(size) for size in self.sizes]} if self.sizes else {}),
            **({"own_pixels": list(self.own_pixels)} if self.own_pixels else {}),
            **({"time_offset": self.time_offset} if self.time_offset else {}),
            **({"unguided": self.unguided} if self.unguided != UNGUIDED else {}),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Family:
        """The family that `to_dict` described. Raises SettingsError for another description."""
        try:
            rest = dict(data)
            fields = _fields_from_dict(rest.pop("fields"))
            call, state = NetworkCall.from_dict(rest.pop("call")), tuple(rest.pop("state"))
            images = ImageArguments.from_dict(rest.pop("images", None))
            sizes = tuple(_size_from_dict(size) for size in rest.pop("sizes", ()))
            own = rest.pop("own_pixels", None)
            return Family(**rest, fields=fields, call=call, state=state, images=images, sizes=sizes,
                          own_pixels=own and (int(own[0]), int(own[1])))  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"the description of the teacher's family is not understood: {error}") from None


def _size_to_dict(size: SampleSize) -> dict[str, Any]:
    constants = {name: to_json(value) for name, value in size.constants.items()}
    seen = {} if size.image is None else {"image": list(size.image), "fields": _fields_to_dict(size.fields)}
    return {"pixels": list(size.pixels), "state": list(size.state), "constants": constants, **seen}


def _size_from_dict(data: Mapping[str, Any]) -> SampleSize:
    height, width = data["pixels"]
    constants = {name: from_json(value) for name, value in data["constants"].items()}
    image = data.get("image")
    return SampleSize((int(height), int(width)), tuple(data["state"]), constants,
                      image and (int(image[0]), int(image[1])), _fields_from_dict(data.get("fields", {})))


def _fields_to_dict(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: {"shape": list(one.shape), "dtype": one.dtype} for name, one in fields.items()}


def _fields_from_dict(data: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(tuple(one["shape"]), one["dtype"]) for name, one in data.items()}


def sized(arguments: Mapping[str, Any], pixels: tuple[int, int]) -> dict[str, Any]:
    """Arguments of a pipeline's call, for samples of (height, width)."""
    height, width = pixels
    return {**arguments, "height": height, "width": width}
