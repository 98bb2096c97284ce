"""Making a set: record by record, shard by shard, in any order, by any number of workers, with the same bytes."""

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from fewstep.data.records import LooseRecords, ShardReader, ShardWriter, encode_record, index_path, verify_shard
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.sampling import sample
from fewstep.trajectories import set_description
from fewstep.trajectories.backend_log import Backends
from fewstep.trajectories.keyed_labels import sample_condition, sample_noise
from fewstep.trajectories.reuse import PreviousSet
from fewstep.trajectories.set_identity import set_key
from fewstep.trajectories.set_plan import SetPlan
from fewstep.trajectories.teacher_runtime import is_compiled
from fewstep.util.errors import CorruptData, FewstepError, NonFinite
from fewstep.util.files import sweep_tree
from fewstep.util.fingerprint import fingerprint
from fewstep.util.torch_threads import one_thread

_STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SetWriter:
    """Completes the set that ``plan`` describes; every start is a resume.

    Records that a former set of the same content holds are taken from it byte for byte; records that an interrupted
    run finished are kept; only the rest is made.

    Args:
        out: folder that will hold exactly the finished set.
        scratch: folder for finished records that wait for their shard.
        plan: what to make.
        previous: a finished set, of any content, that may hold some of the records.
        warn: told when records of another backend are continued.

    Raises:
        CorruptData: a file there is damaged; the message names it.
    """

    def __init__(
        self,
        out: Path | str,
        scratch: Path | str,
        plan: SetPlan,
        previous: Path | str | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ):
        self.out, self.plan = Path(out), plan
        self.loose = LooseRecords(Path(scratch) / "records")
        self.previous = PreviousSet.open(previous, plan)
        self.backends = Backends(Path(scratch) / "backends", warn)

    # What is there

    def is_packed(self, shard: int) -> bool:
        """Whether shard number ``shard`` is finished (its index, written last, is there and fits the plan)."""
        path = self.out / set_description.shard_name(shard)
        if not index_path(path).is_file():
            return False
        with ShardReader(path) as reader:
            names = [entry.name for entry in reader.index.records]
        if names != [set_description.record_name(record) for record in self.plan.records_of(shard)]:
            raise CorruptData(f"{path}: holds other records than the set's plan says", hint="remove it and resume")
        return True

    def missing(self) -> list[int]:
        """Numbers of the records that nobody has made yet."""
        there = self.loose.find().keys() | self.previous.records
        return [r for shard in self.missing_shards() for r in self.plan.records_of(shard) if r not in there]

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are not finished: the independent units of work."""
        return [shard for shard in range(self.plan.shards) if not self.is_packed(shard)]

    # Work

    def make_batch(self, denoiser: Denoiser, record: int) -> bytes:
        """Let the teacher make record number ``record``.

        Returns:
            The encoded record.

        Raises:
            NonFinite: the teacher gave NaN or infinity, or a value that the stored dtype cannot hold.
        """
        plan, settings = self.plan, self.plan.settings
        indices = plan.indices_of(record)
        device = plan.device
        with torch.inference_mode():
            condition = sample_condition(plan.seed, indices, plan.num_classes, plan.fields["condition"]["source"],
                                         plan.among)  # fmt: skip
            made = sample(
                denoiser,
                sample_noise(plan.seed, indices, plan.shape).to(device),
                solver=settings.solver,
                steps=settings.steps,
                condition=None if condition is None else condition.to(device),
                guidance=settings.guidance,
                keep=list(settings.keep) if isinstance(settings.keep, tuple) else settings.keep,
            )
        tensors = {"x": made.x.to(_STORED[settings.dtype]).cpu()}
        metadata = {}
        if made.states is not None:
            tensors["states"] = made.states.to(_STORED[settings.dtype]).cpu()
            metadata["times"] = [float(time) for time in made.times]
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                first = int(indices[0])
                raise NonFinite(
                    f"the teacher's {name} of record {record} (samples {first} to {first + len(indices) - 1}) are not "
                    f"finite in {settings.dtype} ({settings.solver}, {settings.steps} steps, {settings.precision})",
                    role="teacher",
                    hint="try precision float32 and dtype float32, or another solver or step count",
                )
        tensors["index"] = indices
        if condition is not None:
            tensors["condition"] = condition
        return encode_record(tensors, metadata)

    def make_shard(
        self, denoiser: Denoiser | Callable[[], Denoiser], shard: int, on_record: Callable[[int], None] | None = None
    ) -> None:
        """Make what shard number ``shard`` lacks and pack it. Workers may do this for different shards at once.

        Args:
            denoiser: the teacher, prepared as ``plan`` says, or a function that gives it if anything is to be made.
            shard: its number.
            on_record: called with the number of samples of each record that was made.
        """
        if self.is_packed(shard):
            return
        there = self.loose.find().keys() | self.previous.records
        missing = [record for record in self.plan.records_of(shard) if record not in there]
        if missing:
            teacher = denoiser if isinstance(denoiser, Denoiser) else denoiser()
            self.backends.add(self._backend(teacher), self.previous.backends)
            self._make(teacher, missing, on_record)
        self._pack(shard)

    def _backend(self, teacher: Denoiser) -> dict:
        """What makes records here: its fingerprint, and that it does not compile what it should."""
        found = fingerprint(self.plan.device, threads=1)
        return found if is_compiled(teacher) == self.plan.settings.compile else {**found, "compiled": False}

    def _make(self, teacher: Denoiser, records: list[int], on_record: Callable[[int], None] | None) -> None:
        # The next batch is computed while the one before is written and synced; at most one waits.
        pending: Future | None = None
        with one_thread(), ThreadPoolExecutor(1, thread_name_prefix="record-writer") as writer:
            for record in records:
                payload = self.make_batch(teacher, record)
                if pending is not None:
                    pending.result()
                pending = writer.submit(self.loose.write, record, payload)
                if on_record:
                    on_record(self.plan.record_size)
            if pending is not None:
                pending.result()

    def _pack(self, shard: int) -> None:
        records = self.plan.records_of(shard)
        loose = self.loose.find()
        with ShardWriter(self.out / set_description.shard_name(shard)) as writer:
            for record in records:
                payload = self.loose.read(record, loose[record]) if record in loose else self.previous.payload(record)
                writer.add_bytes(set_description.record_name(record), payload, self.plan.record_size)
        for record in records:
            if record in loose:
                loose[record].unlink()

    def finish(self) -> dict:
        """Verify every shard byte by byte and write ``set.json``; the set is then complete.

        Returns:
            {"samples", "records", "shards", "key"}.

        Raises:
            FewstepError: shards are missing.
            CorruptData: one differs from its index.
        """
        if missing := self.missing_shards():
            raise FewstepError(f"{self.out}: {len(missing)} of {self.plan.shards} shards are missing: {missing[:8]} …")
        shards = []
        for shard in range(self.plan.shards):
            path = self.out / set_description.shard_name(shard)
            if problems := verify_shard(path):
                raise CorruptData("; ".join(problems[:3]), hint=f"remove {path} and resume")
            with ShardReader(path) as reader:
                shards.append({"name": path.name, "records": len(reader), "sha256": reader.index.sha256})
        backends = self.previous.backends + self.backends.all()
        unique = [one for i, one in enumerate(backends) if one not in backends[:i]]
        key = set_key(self.plan.fields, unique)
        content = {"count": self.plan.settings.count, "fields": self.plan.fields, "backends": unique, "key": key}
        self.sweep()
        set_description.write(self.out, {**content, "shards": shards})
        return {
            "samples": self.plan.settings.count,
            "records": self.plan.records,
            "shards": self.plan.shards,
            "key": key,
        }

    def sweep(self) -> None:
        """Remove what a killed writer left unfinished. Only while nobody writes."""
        self.loose.sweep()
        sweep_tree(self.out)
