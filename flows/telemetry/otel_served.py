"""What `fewstep serve` tells a collector between runs: how old the champions are, how many runs are in which state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from fewstep.util.errors import FewstepError
from flows.telemetry.otel_providers import Providers
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns


class ServedTelemetry:
    """Gauges of a checkout, read at every export. What cannot be read is left out: an absent figure tells of that."""

    def __init__(self, providers: Providers, workspace: Workspace):
        self.providers, self.workspace = providers, workspace
        meter = providers.meter
        meter.create_observable_gauge("fewstep.champion.age", [self._champions], "s", "Since the champion was made")
        meter.create_observable_gauge("fewstep.runs", [self._runs], "{run}", "Runs known here, by state")

    def close(self) -> None:
        """Sends the last figures."""
        self.providers.close()

    def _champions(self, options: CallbackOptions) -> Iterable[Observation]:
        try:
            registry = Registry(self.workspace)
            made = {model: registry.champion_made(model) for model in registry.models()}
        except FewstepError:
            return
        for model, moment in made.items():
            if moment is not None:
                yield Observation(max(0.0, time.time() - moment), {"model": model})

    def _runs(self, options: CallbackOptions) -> Iterable[Observation]:
        try:
            states = Counter(run.state for run in AllRuns(self.workspace).all())
        except FewstepError:
            return
        for state, number in states.items():
            yield Observation(number, {"state": state})
