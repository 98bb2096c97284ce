"""All that can be known to be wrong before anything starts: raises SettingsError and changes nothing. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fewstep.data.prompt import SPLITS, Prompt, require_prompts, split_of
from fewstep.diffusion.guidance import is_guided, told
from fewstep.diffusion.label_groups import conditions, require_groups
from fewstep.diffusion.solvers import is_stochastic, scheduler_name
from fewstep.recipes import Recipe, load_recipe
from fewstep.students.export_form import require_form
from fewstep.teachers.inspection import TeacherInfo, inspect_teacher
from fewstep.util.errors import SettingsError, laid_at
from fewstep.util.pixel_sizes import size_of_text
from tasks.config.outside import outside_paths
from tasks.config.schema import Data, Settings
from tasks.data import digits_facts
from tasks.data.given_prompts import read_given_prompts
from tasks.data.image_folder import list_images
from tasks.engine import graph


def validate(root: Path, settings: Settings) -> None:
    """Check what the types cannot: the recipe and its needs, the teacher folder, the images, combinations of keys."""
    recipe = load_recipe(_recipe(root, settings)).preset(settings.distill.preset)
    with laid_at("distill.export"):
        require_form(settings.distill.export, recipe.student)
    if settings.distill.moments == "8bit":
        from fewstep.training.moments_8bit import require_torchao  # loads torch

        with laid_at("distill.moments"):
            require_torchao()
    _states(settings, recipe)
    _solvers(settings)
    _conditions(settings.data)
    outside = outside_paths(settings, root)
    _own_outputs(root, outside)
    given = outside["teacher"]
    teacher = None if given is None else inspect_teacher(given, settings.teacher.variant)
    _guidance(settings, recipe, teacher)
    if teacher is not None and teacher.recorded:
        from fewstep.training.recipe_fit import require_recipe_of_folder  # loads torch: only where it is needed

        require_recipe_of_folder(recipe, teacher, len(settings.data.sizes or (None,)))
        _require_recording(teacher, settings)
    elif settings.data.sizes is not None:
        raise SettingsError("data.sizes goes with a given pipeline of latents, whose call has height and width",
                            hint="set data.size, to which all images are cut")  # fmt: skip
    elif settings.data.conditions == "image":
        raise SettingsError("data.conditions is image, and the teacher is given no image beside its class",
                            hint="set data.conditions to text")  # fmt: skip
    images_made = _makes_images(teacher, settings)
    classes = len(digits_facts.CLASSES) if outside["prompts"] is None else 0
    alone = settings.data.source == "digits" and outside["prompts"] is not None
    prompts = () if outside["prompts"] is None else read_given_prompts(outside["prompts"]).prompts
    if outside["images"] is not None:
        listing = list_images(outside["images"])
        listing.require_usable(settings.data)
        classes = len(listing.classes)
        alone = not listing.items or not images_made
    if alone:
        _prompts_alone(teacher)
        if settings.teacher.finetune is not None:
            raise SettingsError("teacher.finetune: there are prompts, and no samples to train the teacher on",
                                hint="leave it out, or bring captioned images: `fewstep data add PATH`, then "
                                     "data.source=raw")  # fmt: skip
        _require_splits(prompts, settings.data.split.model_dump())
    if teacher is not None:
        _fits(teacher, settings.data, classes)


def _conditions(data: Data) -> None:
    """Conditions with an image are those of captioned images."""
    if data.conditions == "image" and (data.source != "raw" or data.prompts is not None):
        raise SettingsError("data.conditions is image: every sample is asked for by a captioned image, and "
                            + ("data.prompts has none" if data.prompts else "data.source is digits"),
                            hint="bring captioned images: `fewstep data add PATH`, then data.source=raw")  # fmt: skip


def _makes_images(teacher: TeacherInfo | None, settings: Settings) -> bool:
    """Whether the teacher's samples are images. Raises SettingsError for an extractor that sees nothing of them."""
    pipeline = None if teacher is None or not teacher.recorded else teacher.pipeline
    if pipeline is None and not settings.evaluate.extractors:
        return True
    import diffusers  # loads torch

    from fewstep.data.medium import IMAGES
    from fewstep.families.pipeline_medium import pipeline_medium
    from fewstep.metrics.extractors.extractor_loading import made_for
    from fewstep.metrics.extractors.media import require_medium

    kind = None if pipeline is None else getattr(diffusers, pipeline, None)
    medium = IMAGES if kind is None else pipeline_medium(kind)
    for name in settings.evaluate.extractors:
        require_medium(name, made_for(name), medium)
    return medium == IMAGES


def _require_recording(teacher: TeacherInfo, settings: Settings) -> None:
    """A pipeline whose call has images is tried now: most of them cannot go without, and the others are few."""
    import diffusers  # as torch: only where it is needed

    from fewstep.families.family import Family
    from fewstep.families.image_arguments import image_inputs
    from fewstep.families.recorded_family import record_family
    from fewstep.teachers.pipeline_loading import load_pipeline
    from fewstep.util.quiet_libraries import quiet_libraries
    from tasks.data.image_conditions import require_conditions

    images, described = None, (teacher.description or {}).get("family")
    with quiet_libraries():
        kind = getattr(diffusers, teacher.pipeline, None)
        if described is not None:
            images = Family.from_dict(described).images
        elif kind is not None and image_inputs(kind):
            sizes = list(map(size_of_text, settings.data.sizes or ()))
            images = record_family(load_pipeline(teacher), settings.encode.of_call, sizes).images
    require_conditions(teacher.pipeline, images, settings.data.conditions == "image")


def _prompts_alone(teacher: TeacherInfo | None) -> None:
    """What has prompts and no images needs a given teacher of texts, whose samples then stand for data."""
    bring = "bring captioned images: `fewstep data add PATH`, then data.source=raw"
    if teacher is None:
        raise SettingsError("there are prompts and no images: nothing can train a teacher",
                            hint=f"set teacher.source to a saved pipeline, or {bring}")  # fmt: skip
    if not teacher.textual:
        raise SettingsError(f"there are prompts and no images, and the teacher {teacher.folder} takes no texts",
                            hint="take a teacher of texts, or bring images: `fewstep data add PATH`, then "
                                 "data.source=raw")  # fmt: skip


def _require_splits(prompts: Sequence[Prompt], shares: dict[str, float]) -> None:
    """A list of prompts has some to train on, some to fit features by and some to be judged by."""
    if prompts:
        found = Counter(split_of(prompt, shares) for prompt in set(prompts))
        require_prompts({name: found[name] for name in SPLITS}, SPLITS)


def _own_outputs(root: Path, outside: dict[str, Path | None]) -> None:
    """What a stage makes cannot be what it is made from: it would be made anew at every call."""
    for name, path in outside.items():
        for stage in graph.STAGES if path is not None else ():
            output = (root / stage.output).resolve()
            if path.resolve().is_relative_to(output):
                raise SettingsError(f"{path}: the {name} lies in {stage.output}, which the stage {stage.name} makes",
                                    hint=f"copy it to a folder outside of {stage.output}")


def _fits(teacher: TeacherInfo, data: Data, classes: int) -> None:
    """The teacher's images and classes are the data's, as far as that is known before the images are opened."""
    if teacher.recorded:
        return  # the encode stage holds sizes and captions to what the pipeline takes
    known = digits_facts.SHAPE if data.source == "digits" and data.prompts is None else (None, None, None)
    wanted = (data.channels or known[0], data.size or known[1], data.size or known[2])
    if any(want is not None and have != want for have, want in zip(teacher.sample_shape, wanted, strict=True)):
        raise SettingsError(f"the teacher {teacher.folder} makes images of shape {tuple(teacher.sample_shape)}, the "
                            f"data's are {tuple('?' if side is None else side for side in wanted)} (channels, height, "
                            "width)", hint="set data.size and data.channels to the teacher's, or take another")
    if teacher.num_classes and classes and teacher.num_classes != classes:
        none = "; a label for 'no class' counts as a class in a folder without fewstep.json"
        raise SettingsError(f"the teacher {teacher.folder} knows {teacher.num_classes} classes, the images have "
                            f"{classes}: they must be the same classes in the same order"
                            f"{none if teacher.num_classes == classes + 1 else ''}",
                            hint="take images of the teacher's classes, or another teacher")


def _guidance(settings: Settings, recipe: Recipe, teacher: TeacherInfo | None) -> None:
    asked = {"trajectories.guidance": [settings.trajectories.guidance],
             "evaluate.guidance": [settings.evaluate.guidance], f"recipe {recipe.name}: guidance": recipe.guidance}
    groups, where, classes = settings.teacher.groups, "teacher.groups", None
    if teacher is not None:
        groups, where, classes = teacher.groups, f"the teacher {teacher.folder}", teacher.num_classes
        classes = None if teacher.textual else classes
    with laid_at(where):  # how many classes the data have is seen later: as if there were one beyond the largest
        some = 2 + max((label for group in groups for label in group), default=0) if classes is None else classes
        require_groups(groups, some, some)
    wanted = conditions(groups)
    for key, found in asked.items():
        for scales in found:
            if is_guided(scales) and classes == 0:
                raise SettingsError(f"{key} is {told(scales)}, which needs classes; {where} has none",
                                    hint="set it to 1")
            if isinstance(scales, tuple) and len(scales) != wanted:
                raise SettingsError(f"{key} has {len(scales)} scales, {told(scales)}; by {where} a label has {wanted} "
                                    f"condition{'s' * (wanted > 1)}", hint="give one scale, or one for each condition")


def _recipe(root: Path, settings: Settings) -> str | Path:
    path = outside_paths(settings, root)["recipe"]
    return settings.distill.recipe if path is None else path


def _states(settings: Settings, recipe: Recipe) -> None:
    needed, kept = recipe.needs.states, settings.trajectories.keep
    if not needed or kept is None or kept == "all":
        return
    missing = "all" if needed == "all" else [state for state in needed if state not in kept]
    if missing:
        raise SettingsError(f"recipe {recipe.name} needs the states {missing} of the teacher's trajectories, "
                            f"trajectories.keep has {list(kept)}", hint="leave trajectories.keep out, or set it to all")


def _solvers(settings: Settings) -> None:
    if is_stochastic(settings.trajectories.solver):
        raise SettingsError(f"trajectories.solver is {settings.trajectories.solver!r}, which draws noise on the way: "
                            "a sample would be no function of its noise", hint="take dpmsolver++, say")
    for solver in settings.evaluate.solvers:
        scheduler_name(solver)
