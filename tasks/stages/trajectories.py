"""The trajectories stage: the teacher's outputs for keyed noise, shard by shard, each an independent unit of work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

from fewstep.trajectories import set_description
from fewstep.trajectories.trajectory_settings import TrajectorySettings
from fewstep.util.config import Strict, parse
from tasks.config.recipe_needs import recipe_needs
from tasks.config.schema import Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.trajectories import SetWriter


CODE = "of the manifest"
"""Stands for the code in the set itself, so that a set that other code makes alike has the same bytes."""


class NothingNeeded(Strict):
    """The recipe trains on no outputs of the teacher that could be made before."""

    needs: Literal["nothing"] = "nothing"


class NeededSet(TrajectorySettings):
    """A set of pairs (noise, sample), or of trajectories with states along the way."""

    needs: Literal["pairs", "trajectories"]


class TrajectoriesResult(Strict, extra="allow"):
    """What was made; a set's own summary (fewstep.trajectories) beside it."""

    samples: int
    needs: str | None = None


class TrajectoriesStage(Stage[NeededSet | NothingNeeded, TrajectoriesResult]):
    """A trajectory set for the recipe; a unit is a shard. Nothing for a recipe that needs none."""

    name = "trajectories"
    output = "data/trajectories"
    settings_type = NeededSet
    inputs = ("encode", "teacher")
    outside = ("recipe",)
    params = ("seed", "trajectories", "distill")
    parallel = True
    apart = True

    def resolve(self, settings: Settings) -> NeededSet | NothingNeeded:
        needs = recipe_needs(settings)
        if not needs.pairs and not needs.states:
            return NothingNeeded()
        chosen = settings.trajectories.model_dump(exclude={"workers", "keep"})
        keep = needs.states if settings.trajectories.keep is None else settings.trajectories.keep
        return NeededSet(needs="trajectories" if keep else "pairs", keep=keep, **chosen)

    def parse(self, data: dict[str, Any], source: str) -> NeededSet | NothingNeeded:
        return parse(NothingNeeded if data.get("needs") == "nothing" else NeededSet, data, source)

    def shortened(self, settings: NeededSet | NothingNeeded) -> NeededSet | NothingNeeded:
        if isinstance(settings, NothingNeeded):
            return settings
        return settings.model_copy(update={"count": min(settings.count, settings.record_size)})

    def check(self, context: Context[NeededSet | NothingNeeded]) -> None:
        """Refuse settings that the teacher cannot serve."""
        if isinstance(context.settings, NeededSet):
            context.once(_OpenSet)

    def units(self, context: Context[NeededSet | NothingNeeded]) -> list[str]:
        if isinstance(context.settings, NothingNeeded):
            return []
        writer = context.once(_OpenSet).writer()
        writer.sweep()
        missing, settings = writer.missing(), context.settings
        context.record_cost({"records_reused": len(writer.previous.records), "records_to_make": len(missing)})
        context.expect(settings.count, max(0, settings.count - len(missing) * settings.record_size))
        return [f"{shard:05d}" for shard in writer.missing_shards()]

    def run_unit(self, context: Context[NeededSet | NothingNeeded], unit: str) -> None:
        """Make and pack one shard; records that are there already are kept."""
        opened = context.once(_OpenSet)
        opened.writer().make_shard(opened.teacher, int(unit), context.advance)

    def finish(self, context: Context[NeededSet | NothingNeeded]) -> TrajectoriesResult:
        """Verify every shard and write the set's description."""
        if isinstance(context.settings, NothingNeeded):
            empty = {"count": 0, "fields": {}, "backends": [], "key": "", "shards": []}
            set_description.write(context.out, empty)
            return TrajectoriesResult(samples=0, needs="nothing")
        return TrajectoriesResult(**context.once(_OpenSet).writer().finish())


class _OpenSet:
    """What the threads of one process share: the set's plan, and the teacher, whose weights nobody changes."""

    def __init__(self, context: Context[NeededSet]):
        from fewstep.trajectories import plan_set  # loads transformers
        from fewstep.util.device import default_device
        from tasks.data.encoded_inputs import stage_teacher

        self.context = context
        chosen = {name: getattr(context.settings, name) for name in TrajectorySettings.model_fields}
        denoiser = stage_teacher(context).to(default_device())
        self.plan = plan_set(denoiser, TrajectorySettings(**chosen), seed=context.seed,
                             teacher_digest=context.manifests["teacher"].digest,
                             prompts_digest=context.manifests["encode"].digest, code=CODE)  # fmt: skip
        self._denoiser: Denoiser = denoiser
        self._prepared: Denoiser | None = None
        self._lock = threading.Lock()

    def writer(self) -> SetWriter:
        """A writer of the set, for one thread."""
        from fewstep.trajectories import SetWriter  # loads diffusers

        context = self.context
        previous = context.previous if context.previous_code_equal else None
        return SetWriter(context.out, context.scratch, self.plan, previous, context.warn)

    def teacher(self) -> Denoiser:
        """The teacher in the set's precision, compiled if the set is; made once."""
        from fewstep.trajectories.teacher_runtime import prepare  # loads torch

        with self._lock:
            if self._prepared is None:
                self._prepared = prepare(self._denoiser, self.plan)
            return self._prepared
