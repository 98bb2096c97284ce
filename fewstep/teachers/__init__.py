"""Teachers: a diffusers pipeline folder or a closed form, as a `Denoiser`. Importing this package imports no torch."""

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
