"""Samples and states of a pipeline: decoded by the pipeline's own call, encoded by the inverse of what that call does
to a state before its autoencoder sees it.

Between sampler and autoencoder a pipeline only moves and scales: it unpacks tokens, puts channels first, undoes a
factor and a shift per channel. That is an affine map of single numbers, so that four probes find it whole, whatever
the family, and its inverse serves encoding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewstep.data.medium import SOUND, VIDEOS, medium_of
from fewstep.families.decoding import decoding
from fewstep.families.family import Family
from fewstep.families.parts_placement import autoencoder_of, place_for_decoding
from fewstep.families.recording import call_parameters
from fewstep.util.at_once import at_once
from fewstep.util.errors import SettingsError

FRAME_RATE, SOUND_RATE = 16.0, 16_000.0
"""Frames of a video, and numbers of a sound, per second, where a pipeline says nothing of them."""
_TOLERANCE = 1e-3
_SAME = 1e-2    # of values in [-1, 1]: a pipeline may round on its way


@dataclass(frozen=True)
class StateMap:
    """z = factor · x[place] + shift: what the autoencoder is given, of a state x.

    place: for every number of z (flat) its place in x (flat). factor, shift: of z's shape without the batch. frames:
    of a video whose autoencoder is one of images, which is given them one behind the other: z is (frames, C, H, W).
    """

    shape: tuple[int, ...]
    place: Tensor
    factor: Tensor
    shift: Tensor
    frames: int | None = None

    def to_latents(self, states: Tensor) -> Tensor:
        """The autoencoder's latents (N, *shape) of states (N, ...)."""
        moved = states.flatten(1)[:, self.place.to(states.device)].unflatten(1, self.shape)
        return moved * self.factor.to(states) + self.shift.to(states)

    def to_state(self, latents: Tensor, state: tuple[int, ...]) -> Tensor:
        """States (N, *state) of the autoencoder's latents (N, *shape)."""
        scaled = (latents - self.shift.to(latents)) / self.factor.to(latents)
        flat = latents.new_zeros((len(latents), self.place.numel()))
        return flat.index_copy(1, self.place.to(latents.device), scaled.flatten(1)).reshape(len(latents), *state)


class Codec:
    """Encodes and decodes for the states of one pipeline.

    Several threads may use one. pipe: with its autoencoder; the denoiser and the text encoders may be absent
    (`Family.prompts` says what stands in their place). family: as recorded from such a pipeline.
    """

    def __init__(self, pipe: Any, family: Family):
        self.pipe, self.family = pipe, family
        self.autoencoder = autoencoder_of(pipe)
        self._lock = threading.RLock()  # a call of the pipeline replaces some of its methods for a while
        self._map: StateMap | None = None
        self._shape: tuple[int, ...] | None = None

    def to(self, device: torch.device) -> Codec:
        """The codec, with all that decodes and encodes on the device."""
        place_for_decoding(self.pipe, device)
        return self

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        """Samples in [-1, 1], on the CPU, of states (N, *state) on any device: images (N, C, H, W), videos
        (N, F, C, H, W), sound (N, C, L).

        A GPU is given as many at once as `at_once` says. A CPU is given all: its results have always been made so, and
        another number would change their last bits.
        """
        if self.autoencoder is None:
            return states.cpu()
        together = len(states) if self._device.type == "cpu" else at_once(self.sample_shape)
        parts = [self._decoded(some) for some in states.split(together)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """States (N, *state) of samples in [-1, 1]; the mean of the autoencoder's distribution.

        Raises SettingsError for samples of another size than the family was recorded with.
        """
        if self.autoencoder is None:
            return samples
        wanted = self.state_map
        given = samples.transpose(1, 2) if samples.ndim == 5 else samples  # frames behind channels
        if wanted.frames is not None:
            given = samples.flatten(0, 1)
        elif given.ndim == 4 and len(wanted.shape) == 4:  # an autoencoder of videos, of which an image is one frame
            given = given.unsqueeze(2)
        found = self.autoencoder.encode(given.to(next(self.autoencoder.parameters())))
        if hasattr(found, "latent_dist"):
            latents = found.latent_dist.mean
        else:
            latents = found.latent if hasattr(found, "latent") else found.latents
        if wanted.frames is not None:
            latents = latents.unflatten(0, (len(samples), -1))
        if tuple(latents.shape[1:]) != wanted.shape:
            raise SettingsError(
                f"{self.family.pipeline}: samples of shape {tuple(samples.shape[1:])} become latents of "
                f"{tuple(latents.shape[1:])}; its states have latents of {wanted.shape}",
                hint="set data.size to the teacher's size, or encode.height and encode.width to the data's",
            )
        return wanted.to_state(latents.float(), self.family.state)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W) of images, (F, C, H, W) of videos, (C, L) of sound."""
        if self._shape is None:
            state = torch.zeros((1, *self.family.state))
            self._shape = tuple((state if self.autoencoder is None else self._decoded(state)).shape[1:])
        return self._shape

    @property
    def rate(self) -> float:
        """Frames of a video, or numbers of a sound, per second; 0 for images."""
        medium = medium_of(self.sample_shape)
        if medium == SOUND:
            parts = (getattr(self.pipe, name, None) for name in ("vocoder", "vae"))
            return next((float(part.config.sampling_rate) for part in parts
                         if part is not None and "sampling_rate" in part.config), SOUND_RATE)
        if medium == VIDEOS:
            told = call_parameters(self.pipe).get("frame_rate")
            return float(self.family.arguments.get("frame_rate") or (told.default if told else FRAME_RATE))
        return 0.0

    @property
    def state_map(self) -> StateMap:
        """What the pipeline does to a state before the autoencoder sees it; found at the first call."""
        with self._lock:
            if self._map is None:
                self._map = self._probed()
            return self._map

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.autoencoder is None else next(self.autoencoder.parameters()).device

    def _decoded(self, states: Tensor) -> Tensor:
        with self._lock, torch.no_grad():
            found = decoding(self.pipe, self.family, states.to(self._device), _output_type(self.pipe))
            return _signed(found, self.pipe).cpu()

    def _probed(self) -> StateMap:
        state = self.family.state
        size = torch.Size(state).numel()
        shift = self._latents(torch.zeros((1, *state)))
        factor = self._latents(torch.ones((1, *state))) - shift
        place = torch.zeros_like(shift, dtype=torch.int64)
        stride = size
        for axis, side in enumerate(state):  # the coordinate along each side of the state, read where it went
            stride //= side
            along = torch.arange(side, dtype=torch.float32).reshape(-1, *(1 for _ in state[axis + 1 :]))
            coordinate = (self._latents(along.expand(state)[None]) - shift) / factor
            whole = coordinate.round()
            if not torch.isfinite(coordinate).all() or (coordinate - whole).abs().max() > _TOLERANCE * max(side, 1):
                raise SettingsError(
                    f"{self.family.pipeline}: what it does to a state before decoding is no scaling of single numbers",
                    hint="its images cannot be encoded here; give latents, or a recipe that needs no data",
                )
            place += whole.long() * stride
        flat = place.flatten()
        if flat.numel() != size or not torch.equal(flat.sort().values, torch.arange(size)):
            raise SettingsError(f"{self.family.pipeline}: its autoencoder is not given every number of a state once")
        if len(shift) > 1:
            return StateMap(tuple(shift.shape), flat, factor, shift, len(shift))
        return StateMap(tuple(shift.shape[1:]), flat, factor[0], shift[0])

    @torch.no_grad()
    def _latents(self, states: Tensor) -> Tensor:
        """What the autoencoder is given of these states."""
        seen: list[Tensor] = []
        with _watched(self.autoencoder, seen), suppress(_Seen):
            decoding(self.pipe, self.family, states.to(self._device), "pt")
        if not seen:
            raise SettingsError(f"{self.family.pipeline}: it never decodes; its samples are its states")
        return seen[0].float().cpu()


class SampleDecoder:
    """Samples of states with gradients, for what is trained by a function of samples.

    The autoencoder is called by itself, on what the pipeline's own decoding would give it, and works in float32; what
    lies between is made again in the backward pass. Copies of a network share one.

    Raises SettingsError where the pipeline makes something else of a state.
    """

    def __init__(self, codec: Codec):
        self.codec, self.map = codec, codec.state_map
        self._sized: dict[int, SampleDecoder] = {}
        self.autoencoder = codec.autoencoder.requires_grad_(False).eval()
        states = torch.randn((1, *codec.family.state), generator=torch.Generator().manual_seed(0)).to(codec._device)
        with torch.no_grad():
            own, known = self(states).cpu(), codec.decode(states)
        if own.shape != known.shape or not torch.allclose(own, known.clamp(-1, 1), atol=_SAME):
            raise SettingsError(f"{codec.family.pipeline}: its autoencoder is called with more than its latents, so "
                                "its samples have no gradients here",
                                hint="take a recipe without a function of samples")  # fmt: skip

    def __call__(self, states: Tensor) -> Tensor:
        """(N, ...) in [-1, 1] of states (N, *state), on their device."""
        self.autoencoder.to(states.device)
        with torch.autocast(states.device.type, enabled=False):
            return checkpoint(self._decoded, states.float(), use_reentrant=False)

    def at(self, number: int) -> SampleDecoder:
        """Of states of size number `number` of the family."""
        if number not in self._sized:
            self._sized[number] = SampleDecoder(Codec(self.codec.pipe, self.codec.family.at(number)))
        return self._sized[number]

    def __deepcopy__(self, memo: dict) -> SampleDecoder:
        return self

    def _decoded(self, states: Tensor) -> Tensor:
        latents = self.map.to_latents(states)
        if self.map.frames is not None:
            found = self.autoencoder.decode(latents.flatten(0, 1), return_dict=False)[0]
            return found.unflatten(0, (len(states), -1)).clamp(-1, 1)
        found = self.autoencoder.decode(latents, return_dict=False)[0]
        if found.ndim == 5 and len(self.codec.sample_shape) == 3:   # of an image as a video of one frame
            found = found[:, :, 0]
        return (found.transpose(1, 2) if found.ndim == 5 else found).clamp(-1, 1)   # frames before channels


class _Seen(Exception):
    """The autoencoder was reached."""


@contextmanager
def _watched(autoencoder: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    def decode(latents: Tensor, *_more: Any, **_named: Any) -> None:
        seen.append(latents)
        raise _Seen

    autoencoder.__dict__["decode"] = decode
    try:
        yield
    finally:
        del autoencoder.__dict__["decode"]


def _output_type(pipe: Any) -> str:
    """In which form a pipeline is asked for samples: as tensors, where a processor of its own gives all forms the same
    numbers, or sound has but these; pipelines that scale images themselves do so for numpy alone (Kandinsky 3)."""
    processed = hasattr(pipe, "image_processor") or hasattr(pipe, "video_processor")
    return "pt" if processed or _sound(pipe) else "np"


def _signed(result: Any, pipe: Any) -> Tensor:
    """What a pipeline returned, in [-1, 1]."""
    if not isinstance(result, Tensor):  # numpy images (N, H, W, C) in [0, 1], or sound (N, L)
        result = torch.from_numpy(result)
        result = result if result.ndim == 2 else result.movedim(-1, -3)
    if result.ndim == 2:  # sound of one channel
        return result[:, None].float()
    return result.float() if _sound(pipe) else result.float() * 2 - 1


def _sound(pipe: Any) -> bool:
    return not hasattr(pipe, "image_processor") and not hasattr(pipe, "video_processor") and hasattr(
        getattr(pipe, "vae", None), "sampling_rate"
    )
