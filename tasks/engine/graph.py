"""The stages: what each reads, which settings and which code determine its output. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import SettingsError
from tasks.config.schema import Settings
from tasks.tracking.store_uri import missing_database

if TYPE_CHECKING:
    from tasks.engine.manifest import Manifest
    from tasks.storage.workspace import Workspace


@dataclass(frozen=True)
class Stage:
    """A stage's declaration. `inputs` are names of earlier stages; `settings` gives what enters the key.

    `modules` are files or folders of code below the repository's root that determine the output's bytes (the import
    closure of the implementation, without the machinery every stage is run through); `params` are the names in
    params.yaml that DVC watches: whole sections, since DVC fails on a key left to its default. `given` names
    what the settings may bring in from outside (see `given`); `present` may say why a finished output is not enough;
    `aside` (`module:function`) makes what stands beside the output and enters no digest and no key.
    """

    name: str
    implementation: str
    output: str
    inputs: tuple[str, ...]
    modules: tuple[str, ...]
    params: tuple[str, ...]
    settings: Callable[[Settings], dict]
    given: tuple[str, ...] = ()
    in_dvc: bool = True
    present: Callable[[Workspace, Manifest], str | None] | None = None
    aside: str | None = None

    @cached_property
    def module_file(self) -> str:
        return self.implementation.replace(".", "/") + ".py"


def _dump(section, *leave_out: str) -> dict:
    return section.model_dump(mode="json", exclude=set(leave_out))


def _shard(settings: Settings) -> dict:
    return _dump(settings.data)


def _classifier(settings: Settings) -> dict:
    return _dump(settings.evaluate.classifier)


def _teacher(settings: Settings) -> dict:
    if settings.teacher.given:
        return {"source": "given", "check": _dump(settings.teacher.check)}
    return _dump(settings.teacher, "path")


def recipe_needs(settings: Settings) -> dict:
    """What round 1 of the chosen recipe needs: data, pairs, states, teacher. Raises SettingsError for a bad recipe."""
    from fewstep.recipes import load_recipe

    return load_recipe(settings.distill.recipe).needs.model_dump(mode="json")


def _trajectories(settings: Settings) -> dict:
    needs = recipe_needs(settings)
    if not needs["pairs"] and not needs["states"]:
        return {"needs": "nothing"}
    resolved = _dump(settings.trajectories, "workers", "keep")
    keep = settings.trajectories.keep if settings.trajectories.keep is not None else needs["states"]
    keep = list(keep) if isinstance(keep, tuple) else keep
    return {"needs": "trajectories" if keep else "pairs", "keep": keep, **resolved}


def _distill(settings: Settings) -> dict:
    from fewstep.recipes import load_recipe

    recipe = load_recipe(settings.distill.recipe).override(settings.distill)
    return {**_dump(settings.distill, "checkpoint_images"), "recipe": recipe.model_dump(mode="json")}


def _baselines(settings: Settings) -> dict:
    return _dump(settings.evaluate, "steps", "classifier", "grid")


def _evaluate(settings: Settings) -> dict:
    return _dump(settings.evaluate, "baseline_steps", "solvers", "classifier")


def _register(settings: Settings) -> dict:
    return {"name": settings.name, **_dump(settings.register)}


_IMAGES = ("fewstep/data", "fewstep/util/io.py", "fewstep/diffusion/randomness.py")
_NETWORK = ("fewstep/diffusion/adapters.py", "fewstep/diffusion/conditions.py", "fewstep/diffusion/denoiser.py", "fewstep/diffusion/label_groups.py",
            "fewstep/diffusion/guidance.py", "fewstep/students/pipelines", "fewstep/diffusion/prediction.py",
            "fewstep/diffusion/processes.py", "fewstep/diffusion/randomness.py", "fewstep/networks", "fewstep/teachers")
_SAMPLING = ("fewstep/diffusion/sampling.py", "fewstep/diffusion/solvers.py")
_STUDENT = ("fewstep/recipes", "fewstep/students", "fewstep/objectives")
_TRAINING = ("fewstep/networks/feature_classifier.py", "fewstep/objectives", "fewstep/util/torch_threads.py", "fewstep/training", "fewstep/trajectories")
_MEASURING = ("fewstep/networks/feature_classifier.py", "fewstep/metrics", "fewstep/util/torch_threads.py", "tasks/data/extractor_files.py")


def _registry_gone(workspace: Workspace, manifest: Manifest) -> str | None:
    """Registration changes a database: without the database the record of it is worth nothing."""
    path = missing_database(workspace.mlflow_uri)
    return f"the MLflow database {path} is gone" if path else None


def _modules(*groups: str | tuple[str, ...]) -> tuple[str, ...]:
    flat = {name for group in groups for name in ((group,) if isinstance(group, str) else group)}
    return tuple(sorted(flat))


STAGES: tuple[Stage, ...] = (
    Stage("shard", "tasks.stages.shard", "data/shards", (), _modules("tasks/stages/shard.py", "tasks/data/image_folder.py", _IMAGES),
          ("seed", "data"), _shard, given=("images",)),
    Stage("classifier", "tasks.stages.classifier", "data/classifier", ("shard",),
          _modules("tasks/stages/classifier.py", "fewstep/networks/feature_classifier.py", "fewstep/util/torch_threads.py", _IMAGES), ("seed", "evaluate"),
          _classifier),
    Stage("teacher", "tasks.stages.teacher", "data/teacher", ("shard",),
          _modules("tasks/stages/teacher.py", _IMAGES, _NETWORK, _SAMPLING, _STUDENT, _TRAINING, "fewstep/metrics/__init__.py",
                   "fewstep/metrics/distances/sliced.py"),
          ("seed", "teacher"), _teacher, given=("teacher",)),
    Stage("trajectories", "tasks.stages.trajectories", "data/trajectories", ("teacher",),
          _modules("tasks/stages/trajectories.py", _NETWORK, _SAMPLING, "fewstep/data/records", "fewstep/trajectories"),
          ("seed", "trajectories", "distill"), _trajectories, given=("recipe",)),
    Stage("distill", "tasks.stages.distill", "data/student", ("shard", "teacher", "trajectories"),
          _modules("tasks/stages/distill.py", _IMAGES, _NETWORK, _SAMPLING, _STUDENT, _TRAINING, "fewstep/students/export.py"),
          ("seed", "distill"), _distill, given=("recipe",)),
    Stage("baselines", "tasks.stages.baselines", "data/baselines", ("shard", "classifier", "teacher"),
          _modules("tasks/stages/baselines.py", _IMAGES, _NETWORK, _SAMPLING, _MEASURING), ("seed", "evaluate"), _baselines),
    Stage("evaluate", "tasks.stages.evaluate", "data/evaluation", ("shard", "classifier", "distill", "baselines"),
          _modules("tasks/stages/evaluate.py", _IMAGES, _NETWORK, _STUDENT, _MEASURING, "fewstep/students/export.py",
                   "fewstep/util/image_grid.py"),
          ("seed", "evaluate"), _evaluate, aside="tasks.report.build:make"),
    Stage("register", "tasks.stages.register", "data/registration",
          ("shard", "teacher", "trajectories", "distill", "evaluate"),
          _modules("tasks/stages/register.py"), ("name", "register"), _register, in_dvc=False,
          present=_registry_gone),
)
BY_NAME = {stage.name: stage for stage in STAGES}


def stage(name: str) -> Stage:
    """The declaration of `name`. Raises SettingsError naming the nearest known stage."""
    from fewstep.util.config import unknown

    if name not in BY_NAME:
        raise SettingsError(unknown("stage", name, tuple(BY_NAME)))
    return BY_NAME[name]


def given(settings: Settings, root: Path) -> dict[str, Path | None]:
    """What the settings bring in from outside the pipeline: raw images, a saved teacher, a recipe file."""
    teacher, recipe = settings.teacher.given, settings.distill.recipe
    return {
        "images": root / "data" / "raw" if settings.data.source == "raw" else None,
        "teacher": (root / Path(teacher).expanduser()) if teacher else None,
        "recipe": (root / Path(recipe).expanduser()) if recipe.endswith((".yaml", ".yml")) else None,
    }
