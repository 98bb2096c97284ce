"""Who is told of a run by OpenTelemetry: nobody, unless the environment asks for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fewstep.util.errors import FewstepError
from flows.telemetry import otel_settings
from tasks.storage.sharing.host import owner
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import RunRecord

if TYPE_CHECKING:   # loads OpenTelemetry
    from flows.telemetry.otel_observer import OtelObserver


def of_run(workspace: Workspace, record: RunRecord, waiting: Callable[[], int]) -> OtelObserver | None:
    """The observer of a run, None where the environment does not ask for one. `waiting`: points that wait for MLflow.

    Raises SettingsError or NotAvailable for what the environment asks for and cannot be had.
    """
    if not otel_settings.asked():
        return None
    from flows.telemetry.otel_observer import OtelObserver  # OpenTelemetry is loaded where it is asked for
    from flows.telemetry.otel_providers import Providers

    return OtelObserver(Providers(record.id, record.name), record.id, len(record.attempts), waiting,
                        champion_age(workspace, record.name))  # fmt: skip


@contextlib.contextmanager
def of_server(workspace: Workspace) -> Iterator[None]:
    """Gauges of the checkout that is served, for the duration of the block, where the environment asks for them."""
    if not otel_settings.asked():
        yield
        return
    from flows.telemetry.otel_providers import Providers  # OpenTelemetry is loaded where it is asked for
    from flows.telemetry.otel_served import ServedTelemetry

    served = ServedTelemetry(Providers(f"serve on {owner(workspace)}", ""), workspace)
    try:
        yield
    finally:
        served.close()


def champion_age(workspace: Workspace, name: str) -> Callable[[], float | None]:
    """How many seconds ago the champion of an experiment was registered, None without one or while nobody can tell."""
    from tasks.registry.model_registry import Registry, model_name  # MLflow takes seconds to load

    registry = Registry(workspace)

    def age() -> float | None:
        try:
            made = registry.champion_made(model_name(name))
        except FewstepError:
            return None     # no figure is what tells of an absent server
        return None if made is None else max(0.0, time.time() - made)

    return age
