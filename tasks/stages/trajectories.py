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
    """The recipe trains on no outputs of the teacher that could be made before, nor on data that a given teacher's
    would stand for."""

    needs: Literal["nothing"] = "nothing"


class NeededSet(TrajectorySettings):
    """A set of pairs (noise, sample), or of trajectories with states along the way.

    samples: the recipe asks for data alone. Where there are prompts and nothing like the teacher's samples, what it
    draws stands for them, as in latent adversarial diffusion distillation (Sauer et al., 2403.12015, section 3.2);
    else nothing is made.
    """

    needs: Literal["pairs", "trajectories", "samples"]


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
        chosen = settings.trajectories.model_dump(exclude={"workers", "keep"})
        if not needs.pairs and not needs.states:
            drawn = needs.data and settings.teacher.given is not None
            return NeededSet(needs="samples", keep=None, **chosen) if drawn else NothingNeeded()
        keep = needs.states if settings.trajectories.keep is None else settings.trajectories.keep
        return NeededSet(needs="trajectories" if keep else "pairs", keep=keep, **chosen)

    def parse(self, data: dict[str, Any], source: str) -> NeededSet | NothingNeeded:
        return parse(NothingNeeded if data.get("needs") == "nothing" else NeededSet, data, source)

    def shortened(self, settings: NeededSet | NothingNeeded) -> NeededSet | NothingNeeded:
        if isinstance(settings, NothingNeeded):
            return settings
        least = 1 if settings.record_size == "auto" else settings.record_size     # a record is whole whatever the count
        return settings.model_copy(update={"count": min(settings.count, least)})

    def check(self, context: Context[NeededSet | NothingNeeded]) -> None:
        """Refuse settings that the teacher cannot serve."""
        if context.once(_needed):
            context.once(_OpenSet)

    def units(self, context: Context[NeededSet | NothingNeeded]) -> list[str]:
        if not context.once(_needed):
            return []
        opened, settings, names = context.once(_OpenSet), context.settings, []
        to_make = reused = samples = 0
        for size in opened.plans:
            writer = opened.writer(size)
            writer.sweep()
            missing = len(writer.missing())
            to_make, samples = to_make + missing, samples + missing * opened.plans[size].record_size
            reused += len(writer.previous.records)
            names += [f"{size}-{shard:05d}" if size else f"{shard:05d}" for shard in writer.missing_shards()]
        context.record_cost({"records_reused": reused, "records_to_make": to_make})
        context.expect(settings.count, max(0, settings.count - samples))
        return names

    def run_unit(self, context: Context[NeededSet | NothingNeeded], unit: str) -> None:
        """Make and pack one shard; records that are there already are kept."""
        opened, (size, _, shard) = context.once(_OpenSet), unit.rpartition("-")
        number = int(size or 0)
        opened.writer(number).make_shard(lambda: opened.teacher(number), int(shard), context.advance)

    def finish(self, context: Context[NeededSet | NothingNeeded]) -> TrajectoriesResult:
        """Verify every shard and write the description of the set, or of one for each size, the first size's last."""
        if not context.once(_needed):
            empty = {"count": 0, "fields": {}, "backends": [], "key": "", "shards": []}
            set_description.write(context.out, empty)
            return TrajectoriesResult(samples=0, needs="nothing")
        opened = context.once(_OpenSet)
        further = {size: opened.writer(size).finish() for size in opened.plans if size}
        made = opened.writer(0).finish()
        if not further:
            return TrajectoriesResult(**made)
        sizes = {str(size): one for size, one in {0: made, **further}.items()}
        return TrajectoriesResult(samples=sum(one["samples"] for one in sizes.values()), sizes=sizes)


def _needed(context: Context[NeededSet | NothingNeeded]) -> bool:
    """Whether a set is made: always for pairs and states; as data, where there are no others."""
    if isinstance(context.settings, NothingNeeded):
        return False
    if context.settings.needs != "samples":
        return True
    from tasks.data.encoded_inputs import lacks_samples  # loads torch

    return lacks_samples(context)


class _OpenSet:
    """What the threads of one process share: the plan of the set of every size, and the teacher, whose weights nobody
    changes."""

    def __init__(self, context: Context[NeededSet]):
        from fewstep.diffusion.randomness import derive  # loads torch
        from fewstep.trajectories import plan_set  # loads transformers
        from fewstep.trajectories.sized_sets import settings_by_size
        from fewstep.util.device import default_device
        from tasks.data.encoded_inputs import stage_teacher

        self.context = context
        chosen = {name: getattr(context.settings, name) for name in TrajectorySettings.model_fields}
        denoiser = stage_teacher(context).to(default_device())
        self.plans = {
            size: plan_set(denoiser.sized(size), settings, seed=derive(context.seed, "size", size) if size else
                           context.seed, teacher_digest=context.manifests["teacher"].digest,
                           prompts_digest=context.manifests["encode"].digest, code=CODE)
            for size, settings in settings_by_size(denoiser, TrajectorySettings(**chosen)).items()}  # fmt: skip
        self._denoiser: Denoiser = denoiser
        self._placed: Denoiser | None = None
        self._prepared: dict[int, Denoiser] = {}
        self._lock = threading.Lock()

    def writer(self, size: int) -> SetWriter:
        """A writer of the set of a size, for one thread."""
        from fewstep.data.sized import folder_of_size
        from fewstep.trajectories import SetWriter  # loads diffusers

        context = self.context
        previous = context.previous if context.previous_code_equal else None
        out, scratch = (folder_of_size(folder, size) for folder in (context.out, context.scratch))
        out.mkdir(parents=True, exist_ok=True)
        return SetWriter(out, scratch, self.plans[size], previous and folder_of_size(previous, size), context.warn)

    def teacher(self, size: int) -> Denoiser:
        """The teacher in the set's precision at a size, compiled if the set is; made once, its weights for all."""
        from fewstep.trajectories.teacher_runtime import compiled, placed  # loads torch

        with self._lock:
            if self._placed is None:
                self._placed = placed(self._denoiser, self.plans[0])
            if size not in self._prepared:
                self._prepared[size] = compiled(self._placed.sized(size), self.plans[size], self.context.warn)
            return self._prepared[size]
