"""The last stage: the student becomes a version of the registered model (tasks.registry.student_registration).

It changes a database, not data: data/registration only says which version the student became.
"""

from __future__ import annotations

import json

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from tasks.config.schema import Register, Settings
from tasks.engine.manifest import Manifest
from tasks.registry.registration_result import NAME, RegistrationResult
from tasks.stages.base import Context, Stage
from tasks.storage.workspace import Workspace
from tasks.tracking.store_uri import missing_database

# MLflow is imported in the methods that register: the graph reads this file


class RegisterSettings(Register):
    """The rules of promotion, and the name of the experiment."""

    name: str


class RegisterStage(Stage[RegisterSettings, RegistrationResult]):
    """A version of the registered model; one unit."""

    name = "register"
    output = "data/registration"
    settings_type = RegisterSettings
    inputs = ("shard", "teacher", "trajectories", "distill", "evaluate")
    params = ("name", "register")
    in_dvc = False

    def resolve(self, settings: Settings) -> RegisterSettings:
        rules = {name: getattr(settings.register, name) for name in Register.model_fields}
        return RegisterSettings(name=settings.name, **rules)

    def absent(self, workspace: Workspace, manifest: Manifest) -> str | None:
        """Registration changes a database: without the database the record of it is worth nothing."""
        path = missing_database(workspace.mlflow_uri)
        return f"the MLflow database {path} is gone" if path else None

    def check(self, context: Context[RegisterSettings]) -> None:
        """Refuse to register what dvc.lock and params.yaml do not describe: nobody could restore it."""
        from tasks.registry.student_registration import student_folder, undescribed  # loads mlflow

        student_folder(context.inputs["distill"])
        wrong = undescribed(context.workspace)
        if wrong:
            raise SettingsError(f"not registered: {wrong[0]}",
                                hint="run `fewstep run` again without editing params.yaml or data meanwhile")

    def units(self, context: Context[RegisterSettings]) -> list[str]:
        return ["register"]

    def run_unit(self, context: Context[RegisterSettings], unit: str) -> None:
        from tasks.registry.student_registration import StudentOutputs, register_student  # loads mlflow

        outputs = StudentOutputs(context.workspace, context.inputs["distill"], context.inputs["evaluate"],
                                 context.manifests, context.observer.pipeline_run())  # fmt: skip
        result = register_student(outputs, context.settings.name, context.settings)
        text = json.dumps(result.model_dump(mode="json"), indent=1, sort_keys=True)
        write_atomically(context.out / NAME, text + "\n")

    def finish(self, context: Context[RegisterSettings]) -> RegistrationResult:
        return parse(RegistrationResult, json.loads((context.out / NAME).read_bytes()), NAME)
