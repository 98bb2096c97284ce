"""The encode stage: texts as a teacher's conditions, images as its states, once for all that trains or samples.

The result is known by encoders, tokenizers and autoencoder, not by the denoiser: a fine-tuned one reuses it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewstep.util.config import Strict, parse
from tasks.config.schema import Encode, Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.data.records import LooseRecords
    from tasks.data.teacher_encoding import TeacherEncoding

UNIT = 256
"""Texts or images per unit of work: what a kill can cost."""
_SHARD = 8  # units per file


class NothingToEncode(Strict):
    """The teacher takes pixels and classes as they are."""

    encodes: Literal["nothing"] = "nothing"


class EncodedTeacher(Encode):
    """A given pipeline with encoders, an autoencoder, or both."""

    encodes: Literal["pipeline"] = "pipeline"
    variant: str | None = None


class EncodeResult(Strict):
    """What was encoded.

    Attributes:
        prompts: rows of conditions that may be asked for. nulls: rows that stand for no condition.
        states: images as states. bytes: of all of it.
        truncated: prompts that are longer than every tokenizer takes.
    """

    prompts: int = 0
    nulls: int = 0
    states: int = 0
    bytes: int = 0
    truncated: int = 0


class EncodeStage(Stage[EncodedTeacher | NothingToEncode, EncodeResult]):
    """Conditions and states of a given teacher; a unit is a block of texts or of images."""

    name = "encode"
    output = "data/encoded"
    settings_type = EncodedTeacher
    inputs = ("shard",)
    outside = ("encoders",)
    params = ("seed", "encode", "teacher")
    apart = True

    def resolve(self, settings: Settings) -> EncodedTeacher | NothingToEncode:
        if settings.teacher.given is None:
            return NothingToEncode()
        return EncodedTeacher(**settings.encode.model_dump(), variant=settings.teacher.variant)

    def parse(self, data: dict[str, Any], source: str) -> EncodedTeacher | NothingToEncode:
        return parse(NothingToEncode if data.get("encodes") == "nothing" else EncodedTeacher, data, source)

    def check(self, context: Context[EncodedTeacher | NothingToEncode]) -> None:
        """Refuse what the teacher cannot encode, and a set that would be larger than allowed."""
        encoding = _encoding(context)
        if encoding is not None:
            encoding.check()

    def units(self, context: Context[EncodedTeacher | NothingToEncode]) -> list[str]:
        encoding = _encoding(context)
        if encoding is None:
            return []
        rows, blocks = encoding.rows(), []
        for kind, count in rows.items():
            there = _loose(context, kind).find()
            blocks += [(kind, number) for number in range(-(-count // UNIT)) if number not in there]
        left = sum(min(UNIT, rows[kind] - number * UNIT) for kind, number in blocks)
        context.note(_told(rows, encoding.bytes, context.settings.max_bytes))
        context.expect(sum(rows.values()), sum(rows.values()) - left, "rows")
        return [f"{kind}-{number:05d}" for kind, number in blocks]

    def run_unit(self, context: Context[EncodedTeacher | NothingToEncode], unit: str) -> None:
        """Encode one block."""
        from fewstep.data.records import encode_record  # loads torch

        kind, _, number = unit.rpartition("-")
        encoding, first = _encoding(context), int(number) * UNIT
        _loose(context, kind).write(int(number), encode_record(encoding.block(kind, first, UNIT)))
        context.advance(min(UNIT, encoding.rows()[kind] - first))

    def finish(self, context: Context[EncodedTeacher | NothingToEncode]) -> EncodeResult:
        """Pack the blocks and write what they are."""
        from fewstep.families.encoded_set import CONDITIONS, STATES, Description, EncodedSet  # loads torch

        shutil.rmtree(context.out)  # what a killed finish left
        context.out.mkdir()
        encoding = _encoding(context)
        if encoding is None:
            Description().write(context.out)
            return EncodeResult()
        counts = encoding.rows()
        folders = {kind: context.out / (kind if kind == CONDITIONS else f"{STATES}/{kind}") for kind in counts}
        packed = {kind: _packed(context, kind, count, folders[kind]) for kind, count in counts.items()}
        counts.pop(CONDITIONS, None)
        described = encoding.description(UNIT, packed.pop(CONDITIONS, []), packed, counts)
        described.write(context.out)
        EncodedSet(context.out).embedded(encoding.table).write(context.out)
        size = sum(path.stat().st_size for path in context.out.rglob("*") if path.is_file())
        return EncodeResult(prompts=len(described.prompts), nulls=len(described.negatives), states=sum(counts.values()),
                            bytes=size, truncated=encoding.truncated)  # fmt: skip


def _encoding(context: Context[EncodedTeacher | NothingToEncode]) -> TeacherEncoding | None:
    """What is encoded, shared by all units; None for a teacher of pixels."""
    return context.once(_opened)


def _told(rows: dict[str, int], size: int, most: int) -> str:
    """What the set will hold and take on disk."""
    from fewstep.families.encoded_set import CONDITIONS  # loads torch

    texts, states = rows.get(CONDITIONS, 0), sum(count for kind, count in rows.items() if kind != CONDITIONS)
    known = ((texts, "rows of conditions"), (states, "images as states"))
    parts = [f"{count} {what}" for count, what in known if count]
    return f"{' and '.join(parts) or 'nothing'}: {size / 1e9:.3g} GB on disk, of {most / 1e9:.3g} GB that " \
        "encode.max_bytes allows"


def _opened(context: Context[EncodedTeacher | NothingToEncode]) -> TeacherEncoding | None:
    from fewstep.teachers.inspection import inspect_teacher

    if isinstance(context.settings, NothingToEncode) or "encoders" not in context.outside:
        return None
    info = inspect_teacher(context.outside["encoders"], context.settings.variant)
    if not info.recorded:
        return None
    from tasks.data.teacher_encoding import TeacherEncoding  # loads torch

    return TeacherEncoding(info, context.inputs["shard"], context.settings, context.seed, context.warn)


def _loose(context: Context[Any], kind: str) -> LooseRecords:
    from fewstep.data.records import LooseRecords  # loads torch

    return LooseRecords(context.scratch / kind)


def _packed(context: Context[Any], kind: str, count: int, folder: Path) -> list[str]:
    """Packs the blocks of one kind into files; returns their names."""
    from fewstep.data.records.shard_files import ShardWriter  # loads torch

    blocks, names = -(-count // UNIT), []
    payloads = _loose(context, kind).in_order(blocks)
    for first in range(0, blocks, _SHARD):
        names.append(f"{first // _SHARD:05d}.tar")
        with ShardWriter(folder / names[-1]) as writer:
            for number in range(first, min(first + _SHARD, blocks)):
                writer.add_bytes(f"{number:08d}", next(payloads), min(UNIT, count - number * UNIT))
    return names
