"""The reference stage: where there are prompts and no images, students are compared with what the teacher draws.

It draws nothing where there are real images.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any, Literal

from fewstep.data.prompt import SPLITS
from fewstep.diffusion.guidance import SampledScales, told
from fewstep.metrics.metric_names import counted, solver_name
from fewstep.util.config import Strict, parse
from fewstep.util.errors import NonFinite, SettingsError
from tasks.config.schema import Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.data.prompts import PromptTable
    from fewstep.data.records import LooseRecords
    from fewstep.diffusion.denoiser import Denoiser

_RECORD, _RECORD_BYTES = 256, 64 << 20   # samples in a record of the set, and what they may take together
PURPOSE = "reference-"
"""Begin of the purposes of its noise, one for each split: no student and no sample that is judged is drawn from it."""


class NothingToDraw(Strict):
    """The teacher is trained here, so there are images."""

    draws: Literal["nothing"] = "nothing"


class DrawnReference(Strict):
    """A given teacher's samples, if there are no images: `samples` in each split, `batch` at a time."""

    draws: Literal["teacher"] = "teacher"
    samples: int
    batch: int
    solver: str
    steps: int
    guidance: SampledScales

    @property
    def told(self) -> str:
        """What the images are, in words."""
        guided = "" if self.guidance == 1 else f", guidance {told(self.guidance)}"
        return f"the teacher's samples at {counted(self.steps, 'step')} ({solver_name(self.solver)}{guided})"


class ReferenceResult(Strict):
    """`samples`: in all splits; 0 where there are real images. `drawn`: what they are."""

    samples: int = 0
    drawn: str = ""


Found = Context[DrawnReference | NothingToDraw]


class ReferenceStage(Stage[DrawnReference | NothingToDraw, ReferenceResult]):
    """The teacher's samples of the prompts, images or of its medium, in shards; a unit is a batch of one split."""

    name = "reference"
    output = "data/reference"
    settings_type = DrawnReference
    inputs = ("shard", "encode", "teacher")
    params = ("seed", "teacher", "trajectories", "evaluate")
    parallel = True
    apart = True

    def resolve(self, settings: Settings) -> DrawnReference | NothingToDraw:
        if settings.teacher.given is None:
            return NothingToDraw()
        chosen, evaluate = settings.trajectories, settings.evaluate
        return DrawnReference(samples=evaluate.samples, batch=evaluate.batch, solver=chosen.solver, steps=chosen.steps,
                              guidance=chosen.guidance)  # fmt: skip

    def parse(self, data: dict[str, Any], source: str) -> DrawnReference | NothingToDraw:
        return parse(NothingToDraw if data.get("draws") == "nothing" else DrawnReference, data, source)

    def shortened(self, settings: DrawnReference | NothingToDraw) -> DrawnReference | NothingToDraw:
        if isinstance(settings, NothingToDraw):
            return settings
        return settings.model_copy(update={"samples": min(settings.samples, 64)})

    def check(self, context: Found) -> None:
        """Refuse a teacher that is asked for no prompts, and a split without a prompt."""
        if not context.once(_needed):
            return
        table = context.once(_prompts)
        if not len(table):
            raise SettingsError("there are prompts and no images, and the teacher takes no prompts",
                                hint="bring images: `fewstep data add PATH`, then data.source=raw")  # fmt: skip
        table.require(*SPLITS)

    def units(self, context: Found) -> list[str]:
        if not context.once(_needed):
            return []
        settings, left = context.settings, []
        for split in SPLITS:
            there = _loose(context, split).find()
            left += [(split, number) for number in _batches(context) if number not in there]
        samples = sum(min(settings.batch, settings.samples - number * settings.batch) for _, number in left)
        context.expect(len(SPLITS) * settings.samples, len(SPLITS) * settings.samples - samples)
        return [f"{split}-{number:05d}" for split, number in left]

    def run_unit(self, context: Found, unit: str) -> None:
        """Draw and decode one batch."""
        import torch  # loads torch

        from fewstep.data.medium import to_stored
        from fewstep.data.records import encode_record
        from fewstep.diffusion.randomness import noise
        from fewstep.diffusion.sampling import sample
        from fewstep.util.device import device_of

        split, _, number = unit.rpartition("-")
        settings, teacher = context.settings, context.once(_teacher)
        indices = torch.arange(settings.samples).split(settings.batch)[int(number)]
        asked, start = _asked(context, split)[indices], noise(context.seed, PURPOSE + split, indices,
                                                             teacher.sample_shape)  # fmt: skip
        device = device_of(teacher)
        states = sample(teacher, start.to(device), solver=settings.solver, steps=settings.steps,
                        condition=asked.to(device), guidance=settings.guidance).x  # fmt: skip
        images = context.once(_codec).decode(states)
        fine = torch.isfinite(images.flatten(1)).all(dim=1)
        if not fine.all():
            raise NonFinite(f"teacher: {1 - float(fine.float().mean()):.1%} of its samples with {settings.solver} at "
                            f"{counted(settings.steps, 'step')} are NaN or infinite", role="teacher")  # fmt: skip
        _loose(context, split).write(int(number), encode_record({"image": to_stored(images), "prompt": asked}))
        context.advance(len(indices))

    def finish(self, context: Found) -> ReferenceResult:
        """Pack the batches as the shard stage packs images, and write whether there are any."""
        from fewstep.data.images import ImageSetWriter  # loads torch
        from fewstep.data.medium import stored_type
        from tasks.data.reference_folder import write_choice

        shutil.rmtree(context.out)  # what a killed finish left
        context.out.mkdir()
        if not context.once(_needed):
            write_choice(context.out, drawn=False)
            return ReferenceResult()
        table, told, codec = context.once(_prompts), context.settings.told, context.once(_codec)
        size = codec.sample_shape
        record = max(1, min(_RECORD, _RECORD_BYTES // (math.prod(size) * stored_type(size).itemsize)))
        writer = ImageSetWriter(context.out, size, (), {}, record, drawn=told, rate=codec.rate)
        try:
            for row, prompt in enumerate(table.prompts):    # rows stay those of the conditions
                for split in SPLITS:
                    if row in table.splits[split]:
                        writer.prompts.add(prompt, split)
            for split in SPLITS:
                _pack(context, split, writer.add, table)
            counts = writer.finish()
        except BaseException:
            writer.abort()
            raise
        write_choice(context.out, drawn=True)
        return ReferenceResult(samples=sum(counts.values()), drawn=told)


def _needed(context: Found) -> bool:
    """Whether there are prompts and nothing like the teacher's samples: no images, or such as are conditions alone."""
    from fewstep.data.images import load_prompts, load_split  # loads torch
    from fewstep.families.encoded_set import EncodedSet
    from tasks.data.encoded_inputs import encodes_data

    shards = context.inputs["shard"]
    if isinstance(context.settings, NothingToDraw) or not len(load_prompts(shards)):
        return False
    if not any(len(load_split(shards, split)) for split in SPLITS):
        return True
    family = EncodedSet(context.inputs["encode"]).family
    return family is not None and family.images is not None and not encodes_data(context, "test")


def _prompts(context: Found) -> PromptTable:
    from fewstep.families.encoded_set import EncodedSet  # loads torch

    return EncodedSet(context.inputs["encode"]).prompt_table()


def _codec(context: Found):
    from tasks.data.encoded_inputs import stage_codec  # loads torch

    return stage_codec(context)


def _teacher(context: Found) -> Denoiser:
    from tasks.evaluation.samplers import ready_teacher  # loads torch

    return ready_teacher(context)


def _asked(context: Found, split: str) -> Tensor:
    """(samples,) rows of prompts: those of the split in turn, in a keyed order."""
    import torch  # loads torch

    from fewstep.metrics.comparison.stratified_order import mixed

    rows = context.once(_prompts).rows(split)
    order = torch.from_numpy(rows[mixed(len(rows), None, context.seed, PURPOSE + "order-" + split)])
    return order[torch.arange(context.settings.samples) % len(order)]


def _batches(context: Found) -> range:
    return range(-(-context.settings.samples // context.settings.batch))


def _loose(context: Found, split: str) -> LooseRecords:
    from fewstep.data.records import LooseRecords  # loads torch

    return LooseRecords(context.scratch / split)


def _pack(context: Found, split: str, add: Any, table: PromptTable) -> None:
    from fewstep.data.records import decode_record  # loads torch

    place = 0
    for payload in _loose(context, split).in_order(len(_batches(context))):
        record = decode_record(payload)
        for image, row in zip(record.tensors["image"], record.tensors["prompt"].tolist(), strict=True):
            add(image, -1, f"{split}-{place:08d}", table.prompts[row], split)
            place += 1
