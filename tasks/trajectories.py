"""The trajectory stage: what the teacher makes of keyed noise, shard by shard, each an independent unit of work."""

from __future__ import annotations

import threading

from fewstep.trajectories import SetPlan, SetWriter, TrajectorySettings, description, plan_set
from fewstep.trajectories.network import prepare

PARALLEL = True
_NOTHING = "nothing"
_prepared: dict[str, tuple] = {}
_preparing = threading.Lock()


def _settings(ctx) -> TrajectorySettings | None:
    if ctx.settings["needs"] == _NOTHING:
        return None
    named = {name: value for name, value in ctx.settings.items() if name in TrajectorySettings.model_fields}
    return TrajectorySettings.model_validate(named)


def _plan(ctx) -> tuple[object, SetPlan]:
    """(prepared teacher, plan), once per process and key: the workers share the weights, which nobody changes."""
    from fewstep.teachers import load_teacher

    with _preparing:
        if ctx.key not in _prepared:
            denoiser = load_teacher(ctx.inputs["teacher"])
            plan = plan_set(denoiser, _settings(ctx), seed=ctx.seed, teacher_digest=ctx.manifests["teacher"].digest)
            _prepared.clear()
            _prepared[ctx.key] = (denoiser, plan)
        return _prepared[ctx.key]


def _writer(ctx) -> SetWriter:
    return SetWriter(ctx.out, ctx.scratch, _plan(ctx)[1], ctx.previous, ctx.warn)


def check(ctx) -> None:
    """SettingsError if the teacher cannot make what is asked for."""
    if _settings(ctx) is not None:
        _plan(ctx)


def units(ctx) -> list[str]:
    """Shards that are not finished; none if the recipe needs none."""
    if _settings(ctx) is None:
        return []
    writer = _writer(ctx)
    writer.sweep()
    ctx.record_cost({"records_reused": len(writer.previous.records), "records_to_make": len(writer.missing())})
    return [f"{shard:05d}" for shard in writer.missing_shards()]


def run_unit(ctx, unit: str) -> None:
    """Make and pack one shard; records that are there already are kept."""
    writer = _writer(ctx)
    total = writer.plan.settings.count

    def on_record(_: int) -> None:
        ctx.progress(min(total, total - len(writer.missing()) * writer.plan.settings.record_size), total)

    writer.make_shard(lambda: _teacher(ctx), int(unit), on_record)


def _teacher(ctx):
    denoiser, plan = _plan(ctx)
    with _preparing:
        name = f"{ctx.key}-teacher"
        if name not in _prepared:
            _prepared[name] = prepare(denoiser, plan)
        return _prepared[name]


def finish(ctx) -> dict:
    """Verify every shard and write the set's description."""
    if _settings(ctx) is None:
        description.write(ctx.out, {"count": 0, "fields": {}, "backends": [], "key": "", "shards": []})
        return {"samples": 0, "needs": _NOTHING}
    summary = _writer(ctx).finish()
    _prepared.clear()
    return summary
