"""The last stage: the student becomes a version of the registered model (tasks.registry.student_registration).

It changes a database, not data: data/registration only says which version the student became.
"""

import json

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.schema import Register
from tasks.registry.registration_result import NAME
from tasks.storage.file_io import atomic_write

PARALLEL = False


def check(ctx) -> None:
    """Refuses to register what dvc.lock and params.yaml do not describe: nobody could restore it."""
    from tasks.registry.student_registration import student_folder, undescribed  # loads mlflow

    student_folder(ctx.inputs["distill"])
    wrong = undescribed(ctx.workspace)
    if wrong:
        raise SettingsError(f"not registered: {wrong[0]}",
                            hint="run `fewstep run` again without editing params.yaml or data meanwhile")  # fmt: skip


def units(ctx) -> list[str]:
    return ["register"]


def run_unit(ctx, unit: str) -> None:
    from tasks.registry.student_registration import StudentOutputs, register_student  # loads mlflow

    outputs = StudentOutputs(ctx.workspace, ctx.inputs["distill"], ctx.inputs["evaluate"], ctx.manifests,
                             ctx.observer.pipeline_run())  # fmt: skip
    rules = {name: value for name, value in ctx.settings.items() if name != "name"}
    result = register_student(outputs, ctx.settings["name"], parse(Register, rules, "register"))
    atomic_write(ctx.out / NAME, json.dumps(result.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


def finish(ctx) -> dict:
    return json.loads((ctx.out / NAME).read_text())
