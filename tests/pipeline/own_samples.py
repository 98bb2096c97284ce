"""What `Student.sample` draws, for what others draw of the same student to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.medium import SOUND, medium_of, to_stored
from fewstep.diffusion.randomness import noise as keyed_noise
from fewstep.families.codec import Codec
from fewstep.families.family import Family
from fewstep.families.recorded_conditions import table_of
from fewstep.families.recording import first_step
from fewstep.families.trial import call_arguments
from fewstep.students.export import load_student
from fewstep.students.student import Student
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from tasks.registry.packaged.sample_pictures import PURPOSE


def drawn_noise(pipe: Any, family: Family, asked: list[dict], seeds: Sequence[int]) -> Tensor:
    """(N, *state) N(0, I), as the pipeline draws it for these arguments of its call, a seed each: some draw before they
    pack, and some something else first. Of a family whose first tokens stand still they are the packed ones, of which
    the pipeline's scheduler steps the others."""
    given = [call_arguments(pipe, {**family.arguments, **one}, guided=False) for one in asked]
    steps = [first_step(pipe, one, 1, seeds=[seed]) for seed, one in zip(seeds, given, strict=True)]
    states = [step.state if family.call.still is None else step.calls[0][family.call.state] for step in steps]
    return torch.cat(states) / float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))


class Own:
    """The student of a folder as our own loader has it, of samples of size number `size`.

    What is asked for are arguments of its pipeline's call: `prompt` or `class_labels` in lists, `batch_size` of a
    student without conditions, and the images that it is given beside a text, in lists too.
    """

    def __init__(self, folder: Path, size: int = 0):
        whole = load_student(folder)
        self.student = Student(whole.denoiser.sized(size), whole.sampler) if size else whole
        self.family = whole.denoiser.family and whole.denoiser.family.at(size)
        self.codec: Codec | None = None
        if self.family is not None:
            self.codec = Codec(load_pipeline(inspect_teacher(folder)), self.family)

    def drawn(self, asked: dict[str, Any], seeds: Sequence[int], together: bool = False) -> Tensor:
        """Samples as their users get them, channels last in [0, 1] (sound: (N, C, L) in [-1, 1]), from a generator for
        each seed. together: from one generator, of the only seed, for all."""
        shape = self.student.denoiser.sample_shape
        if "prompt" in asked:
            start = drawn_noise(self.codec.pipe, self.family, self._single(asked), seeds)
        elif together:
            start = torch.randn((count(asked), *shape), generator=torch.Generator().manual_seed(*seeds))
        else:
            start = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        samples = self._decoded(self.student.sample(start, condition=self._condition(asked, seeds)))
        if medium_of(samples.shape[1:]) == SOUND:
            return samples
        return (samples.clamp(-1, 1) / 2 + 0.5).movedim(-3, -1)

    def stored(self, asked: dict[str, Any], seed: int) -> Tensor:
        """Samples (N, …) of the noise that `fewstep sample --seed` draws, as the integers that they are kept as."""
        start = keyed_noise(seed, PURPOSE, range(count(asked)), self.student.denoiser.sample_shape)
        samples = self.student.sample(start, condition=self._condition(asked), seed=seed)
        return to_stored(self._decoded(samples))

    def _single(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """What is asked for, one sample a call: not every pipeline takes several images."""
        found = []
        for number, text in enumerate(asked["prompt"]):
            shown = {name: some[number] for name, some in self._images(asked).items()}
            found.append({"prompt": [text], **(self.family.images.of(shown, 1) if shown else {})})
        return found

    def _images(self, asked: dict[str, Any]) -> dict[str, list[Any]]:
        return {} if self.family.images is None else {name: asked[name] for name in self.family.images.names}

    def _decoded(self, states: Tensor) -> Tensor:
        return states if self.codec is None else self.codec.decode(states)

    def _condition(self, asked: dict[str, Any], seeds: Sequence[int] | None = None) -> Tensor | None:
        if "prompt" in asked:
            images = self._images(asked) or None
            table = table_of(self.codec.pipe, self.family, asked["prompt"], images=images, seeds=seeds)
            self.student.denoiser.take(table)
            return torch.arange(count(asked))
        return torch.tensor(asked["class_labels"]) if "class_labels" in asked else None


def count(asked: dict[str, Any]) -> int:
    """Number of samples that are asked for."""
    return next((len(value) for value in asked.values() if isinstance(value, list)), asked.get("batch_size", 1))
