"""The distill stage: a recipe's rounds, one after the other, from the teacher to a student folder."""

import json
import os
import shutil
import time

from fewstep.data.images import load_split
from fewstep.recipes import Overrides, Recipe, check_needs, parse_recipe
from fewstep.util.device import default_device
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically

PARALLEL = False


def check(ctx) -> None:
    """Raises SettingsError if the recipe, its overrides and what the earlier stages made do not fit together."""
    from fewstep.teachers import inspect_teacher

    recipe = _recipe(ctx)
    inspect_teacher(ctx.inputs["teacher"])
    made = ctx.manifests["trajectories"].settings
    check_needs(
        recipe,
        data=not recipe.needs.data or len(load_split(ctx.inputs["shard"], "train")) > 0,
        pairs=made.get("needs") != "nothing",
    )
    if recipe.needs.states and not made.get("keep"):
        raise SettingsError(f"recipe {recipe.name} needs states along the trajectories; set trajectories.keep: all")


def units(ctx) -> list[str]:
    """The rounds that are not finished."""
    return [name for name in _names(_recipe(ctx)) if not _manifest(ctx, name).is_file()]


def run_unit(ctx, unit: str) -> None:
    """Train one round to its end, from its newest checkpoint; earlier rounds are read from theirs."""
    from fewstep.training.distillation import network_digest

    recipe = _recipe(ctx)
    index = _names(recipe).index(unit)
    lengths = [recipe.images_of(k, ctx.settings["images"]) for k in range(len(recipe.rounds))]
    before, total, begun = sum(lengths[:index]), sum(lengths), time.monotonic()

    def on_progress(done: int, _round: int, figures: dict[str, float]) -> None:
        ctx.progress(before + done, total, metrics=figures, step=before + done)

    student = _distillation(ctx, recipe).student_after(index, on_progress)
    seconds = time.monotonic() - begun
    ctx.record_cost({unit: {"seconds": round(seconds, 3), "images": lengths[index]}})
    manifest = {
        "round": unit,
        "images": lengths[index],
        "turns": recipe.rounds[index].turns,
        "weights": network_digest(student.denoiser),
    }
    write_atomically(_manifest(ctx, unit), json.dumps(manifest, sort_keys=True, indent=1))


def finish(ctx) -> dict:
    """Export the last round's student as the stage's output."""
    from fewstep.students.export import export_student

    recipe = _recipe(ctx)
    names = _names(recipe)
    student = _distillation(ctx, recipe).student()
    student.denoiser.to("cpu")
    export = ctx.scratch / "export"
    shutil.rmtree(export, ignore_errors=True)
    export_student(student, export)
    shutil.rmtree(ctx.out, ignore_errors=True)
    os.rename(export, ctx.out)
    return {
        "recipe": recipe.name,
        "steps": recipe.student.steps,
        "sampler": student.sampler.kind,
        "parameters": sum(value.numel() for value in student.denoiser.parameters()),
        "rounds": [json.loads(_manifest(ctx, name).read_text()) for name in names],
    }


def _recipe(ctx) -> Recipe:
    chosen = {key: value for key, value in ctx.settings.items() if key in Overrides.model_fields}
    return parse_recipe(ctx.settings["recipe"], "recipe").override(Overrides(**chosen))


def _names(recipe: Recipe) -> list[str]:
    return [f"round-{k + 1}" for k in range(len(recipe.rounds))]


def _manifest(ctx, unit: str):
    return ctx.scratch / unit / "round.json"


def _distillation(ctx, recipe: Recipe):
    from fewstep.teachers import load_teacher
    from fewstep.training import Distillation
    from fewstep.trajectories import TrajectorySettings, open_set

    made = ctx.manifests["trajectories"].settings
    taken = {key: made[key] for key in TrajectorySettings.model_fields if key in made}
    return Distillation(
        recipe,
        load_teacher(ctx.inputs["teacher"]),
        images=ctx.settings["images"],
        seed=ctx.seed,
        folder=ctx.scratch,
        data=load_split(ctx.inputs["shard"], "train") if recipe.needs.data else None,
        pairs=open_set(ctx.inputs["trajectories"]) if recipe.rounds[0].needs.pairs else None,
        trajectories=TrajectorySettings(**taken),
        device=default_device(),
        checkpoint_images=ctx.checkpoint_images,
        warn=ctx.warn,
        on_pairs=lambda done, total: ctx.progress(done, total, unit="pairs"),
    )
