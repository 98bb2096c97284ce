"""Temporary."""
from __future__ import annotations

import dataclasses

from fewstep.util.config import Strict
from tasks.config.schema import Settings
from tasks.stages.base import Stage


class Free(Strict, extra="allow"):
    pass
class EvaluateStage(Stage):
    name = "evaluate"; output = "data/evaluation"; settings_type = Free; params = ("seed", "evaluate"); parallel = True
    inputs = ("shard", "classifier", "distill", "baselines")
    metrics = ("metrics.json",)
    old = "old_evaluate"
    left_out = {"baseline_steps", "solvers", "classifier"}
    def resolve(self, settings: Settings):
        return Free(**settings.evaluate.model_dump(mode="json", exclude=self.left_out))
    def _old(self):
        import importlib
        return importlib.import_module(f"tasks.data.{self.old}")
    def _c(self, c):
        n = dataclasses.replace(c, settings=c.settings.model_dump(mode="json")); n.given = n.outside
        return n
    def check(self, context): self._old().check(self._c(context))
    def units(self, context): return self._old().units(self._c(context))
    def run_unit(self, context, unit): return self._old().run_unit(self._c(context), unit)
    def finish(self, context): return Free(**self._old().finish(self._c(context)))
    def costs(self, context): return self._old().cost(self._c(context))
    def beside(self, workspace):
        from tasks.report.build import make
        return make(workspace)
class BaselinesStage(EvaluateStage):
    name = "baselines"; output = "data/baselines"; inputs = ("shard", "classifier", "teacher"); metrics = ()
    old = "old_baselines"
    left_out = {"steps", "classifier", "grid"}
    def beside(self, workspace): return None
