"""Teachers: a diffusers pipeline folder or a closed form, as a `Denoiser`. Importing this package imports no torch."""

from typing import TYPE_CHECKING

from fewstep.util.lazy_names import lazy_names

if TYPE_CHECKING:
    from fewstep.networks.unet_mlp import new_unet
    from fewstep.teachers.inspection import TeacherInfo, inspect_teacher
    from fewstep.teachers.loading import load_teacher
    from fewstep.teachers.mixture import GaussianMixture
    from fewstep.teachers.saving import save_teacher

_HOMES = {
    "GaussianMixture": "fewstep.teachers.mixture",
    "TeacherInfo": "fewstep.teachers.inspection",
    "inspect_teacher": "fewstep.teachers.inspection",
    "load_teacher": "fewstep.teachers.loading",
    "new_unet": "fewstep.networks.unet_mlp",
    "save_teacher": "fewstep.teachers.saving",
}
__all__ = ["GaussianMixture", "TeacherInfo", "inspect_teacher", "load_teacher", "new_unet", "save_teacher"]
__getattr__ = lazy_names(__name__, _HOMES)
