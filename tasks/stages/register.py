"""Temporary."""
from __future__ import annotations

import dataclasses
import importlib

from fewstep.util.config import Strict
from tasks.config.schema import Settings
from tasks.stages.base import Stage


class Free(Strict, extra="allow"):
    pass


class RegisterStage(Stage):
    name = "register"
    output = "data/registration"
    settings_type = Free
    params = ("name", "register")
    inputs = ("shard", "teacher", "trajectories", "distill", "evaluate")
    in_dvc = False

    def resolve(self, settings: Settings):
        return Free(name=settings.name, **settings.register.model_dump(mode="json"))

    def _old(self):
        return importlib.import_module("tasks.data.old_register")

    def _c(self, c):
        n = dataclasses.replace(c, settings=c.settings.model_dump(mode="json"))
        n.given = n.outside
        return n

    def check(self, context):
        self._old().check(self._c(context))

    def units(self, context):
        return self._old().units(self._c(context))

    def run_unit(self, context, unit):
        return self._old().run_unit(self._c(context), unit)

    def finish(self, context):
        return Free(**self._old().finish(self._c(context)))
