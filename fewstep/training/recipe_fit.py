"""Whether a teacher's network can serve a recipe: what it lacks is said before any work."""

from __future__ import annotations

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.extra_inputs import embeds_scale, places
from fewstep.networks.guide_network import hidden_channels
from fewstep.networks.initial_weights import require_known
from fewstep.networks.network_blocks import middle
from fewstep.networks.pruning import require_smaller
from fewstep.objectives.registry import build
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.recipes import Recipe
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers.mixture import GaussianMixture
from fewstep.training.roles.multi_student import require_shareable
from fewstep.util.errors import SettingsError


def require_recipe(recipe: Recipe, teacher: Denoiser) -> None:
    """Raises SettingsError, naming the recipe and what is lacking, where the networks that it makes of `teacher`'s, or
    the conditions that they take, cannot serve it.

    A closed form is served by the network that is fitted to it.
    """
    if isinstance(teacher, GaussianMixture):
        return
    try:
        for scales in recipe.guidance:
            teacher.require_guidance(scales)
        _require_student(recipe.student, teacher)
        if recipe.students > 1:
            require_shareable(teacher)
        if "random" in {recipe.student.init, *(own.start for own in recipe.rounds)}:
            require_known(teacher.network)
        for own in recipe.rounds:
            for term in map(build, own.terms):
                if any(term.reads_features(role) for role in (*own.roles, TEACHER_NETWORK)):
                    middle(teacher.network)
                term.require(teacher)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe.name} does not serve this teacher: {error}", hint=error.hint) from error


def _require_student(student: StudentSettings, teacher: Denoiser) -> None:
    own_scale = student.guidance_input is not None and not embeds_scale(teacher)
    if student.second_time or student.negative_time or own_scale:
        places(teacher.network)
    if student.size is not None:
        require_smaller(teacher.network, student.size.width)
    if student.guide is not None:
        hidden_channels(teacher.network)
