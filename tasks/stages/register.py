"""Temporary."""
from __future__ import annotations

from tasks.config.schema import Settings
from tasks.stages.evaluate import EvaluateStage, Free


class RegisterStage(EvaluateStage):
    name = "register"; output = "data/registration"; settings_type = Free; params = ("name", "register"); parallel = False
    inputs = ("shard", "teacher", "trajectories", "distill", "evaluate")
    in_dvc = False; metrics = ()
    old = "old_register"
    def resolve(self, settings: Settings): return Free(name=settings.name, **settings.register.model_dump(mode="json"))
    def costs(self, context): return {}
    def beside(self, workspace): return None
