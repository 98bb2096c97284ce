"""The trajectory stage: what the teacher makes of keyed noise, shard by shard, each an independent unit of work."""

from __future__ import annotations

import threading

from fewstep.trajectories import SetWriter, TrajectorySettings, plan_set, set_description
from fewstep.trajectories.teacher_runtime import prepare
from fewstep.util.device import default_device

PARALLEL = True
_NOTHING = "nothing"


class _Work:
    """What the workers of one process share: the teacher, whose weights nobody changes, and the count of samples."""

    def __init__(self, ctx):
        from fewstep.teachers import load_teacher

        self.denoiser = load_teacher(ctx.inputs["teacher"])
        digest = ctx.manifests["teacher"].digest
        self.plan = plan_set(self.denoiser, _settings(ctx), seed=ctx.seed, teacher_digest=digest,
                             device=default_device())
        self.done = 0
        self._prepared = None
        self._lock = threading.Lock()

    def teacher(self):
        """The teacher in the set's precision, compiled if the set is; made once."""
        with self._lock:
            if self._prepared is None:
                self._prepared = prepare(self.denoiser, self.plan)
            return self._prepared

    def made(self, ctx, samples: int) -> None:
        """Count and report samples."""
        with self._lock:
            self.done += samples
            total = self.plan.settings.count
            ctx.progress(min(self.done, total), total)


_work: dict[str, _Work] = {}
_opening = threading.Lock()


def _settings(ctx) -> TrajectorySettings | None:
    if ctx.settings["needs"] == _NOTHING:
        return None
    named = {name: value for name, value in ctx.settings.items() if name in TrajectorySettings.model_fields}
    return TrajectorySettings.model_validate(named)


def _open(ctx) -> tuple[_Work, SetWriter]:
    with _opening:
        known = _work.get(ctx.key)
        if known is None:
            known = _Work(ctx)
            writer = SetWriter(ctx.out, ctx.scratch, known.plan, ctx.previous, ctx.warn)
            known.done = (known.plan.records - len(writer.missing())) * known.plan.settings.record_size
            _work.clear()
            _work[ctx.key] = known
    return known, SetWriter(ctx.out, ctx.scratch, known.plan, ctx.previous, ctx.warn)


def check(ctx) -> None:
    """SettingsError if the teacher cannot make what is asked for."""
    if _settings(ctx) is not None:
        _work.clear()
        _open(ctx)


def units(ctx) -> list[str]:
    """Shards that are not finished; none if the recipe needs none."""
    if _settings(ctx) is None:
        return []
    _, writer = _open(ctx)
    writer.sweep()
    ctx.record_cost({"records_reused": len(writer.previous.records), "records_to_make": len(writer.missing())})
    return [f"{shard:05d}" for shard in writer.missing_shards()]


def run_unit(ctx, unit: str) -> None:
    """Make and pack one shard; records that are there already are kept."""
    work, writer = _open(ctx)
    writer.make_shard(work.teacher, int(unit), lambda samples: work.made(ctx, samples))


def finish(ctx) -> dict:
    """Verify every shard and write the set's description."""
    if _settings(ctx) is None:
        set_description.write(ctx.out, {"count": 0, "fields": {}, "backends": [], "key": "", "shards": []})
        return {"samples": 0, "needs": _NOTHING}
    summary = _open(ctx)[1].finish()
    _work.clear()
    return summary
