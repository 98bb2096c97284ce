"""Whether a teacher's network can serve a recipe: what it lacks is said before any work."""

from __future__ import annotations

from torch import nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.extra_inputs import places
from fewstep.networks.guide_network import hidden_channels
from fewstep.networks.initial_weights import require_known
from fewstep.networks.network_blocks import middle
from fewstep.networks.network_facts import NetworkFacts
from fewstep.networks.pruning import require_smaller
from fewstep.networks.sharded import units
from fewstep.objectives.registry import build
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.recipes import Recipe
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers.inspection import TeacherInfo
from fewstep.teachers.mixture import GaussianMixture
from fewstep.teachers.pipeline_loading import probe_network
from fewstep.training.roles.multi_student import require_shareable
from fewstep.util.errors import SettingsError


def require_recipe(recipe: Recipe, teacher: Denoiser) -> None:
    """Raises SettingsError, naming the recipe and what is lacking, where the networks that it makes of `teacher`'s, or
    the conditions that they take, cannot serve it.

    A closed form is served by the network that is fitted to it.
    """
    for scales in recipe.guidance:
        teacher.require_guidance(scales)
    if not isinstance(teacher, GaussianMixture):
        require_facts(recipe, NetworkFacts.of(teacher))


def require_recipe_of_folder(recipe: Recipe, info: TeacherInfo, sizes: int = 1) -> None:
    """The same of an inspected folder, of which the configuration of the denoiser alone is read, and samples of `sizes`
    sizes.

    What depends on a recording of the pipeline, such as whether it can be guided, is not known here.
    """
    network = probe_network(info.folder / info.part, info.network)
    config = network.config
    scale = bool(config.get("guidance_embeds")) or bool(config.get("time_cond_proj_dim"))
    classes = bool(info.num_classes) and not info.textual
    require_facts(recipe, NetworkFacts(network, info.textual, classes, scale, sizes))


def require_shardable(recipe: Recipe, network: nn.Module | None = None) -> None:
    """Raises SettingsError, naming what stands in the way, where processes cannot hold the networks of this recipe in
    shards, the teacher's being `network` (None: a closed form's)."""
    try:
        if network is not None:
            units(network)
        twice = [term.name for own in recipe.rounds for term in map(build, own.terms) if term.differentiates_twice]
        if twice:
            raise SettingsError(f"{twice[0]} differentiates the gradient of a network once more, whose blocks are gone "
                                "by then", hint="give its gradient_penalty another kind")  # fmt: skip
    except SettingsError as error:
        raise SettingsError(f"compute.parallel: shard does not serve recipe {recipe.name} here: {error}",
                            hint=f"{error.hint}, or set compute.parallel: replicate" if error.hint else
                            "set compute.parallel: replicate") from error  # fmt: skip


def require_facts(recipe: Recipe, facts: NetworkFacts) -> None:
    """Raises SettingsError, naming the recipe and what is lacking, where such a network cannot serve it."""
    network = facts.network
    try:
        _require_student(recipe.student, facts)
        if recipe.students > 1:
            require_shareable(facts)
        if "random" in {recipe.student.init, *(own.start for own in recipe.rounds)}:
            require_known(network)
        for own in recipe.rounds:
            for term in map(build, own.terms):
                if any(term.reads_features(role) for role in (*own.roles, TEACHER_NETWORK)):
                    middle(network)
                term.require(facts)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe.name} does not serve this teacher: {error}", hint=error.hint) from error


def _require_student(student: StudentSettings, facts: NetworkFacts) -> None:
    own_scale = student.guidance_input is not None and not facts.scale
    if student.second_time or student.negative_time or own_scale:
        places(facts.network)
    if student.size is not None:
        require_smaller(facts.network, student.size.width)
    if student.guide is not None:
        hidden_channels(facts.network)
