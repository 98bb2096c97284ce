"""The engine that `compute.on` names, opened when a stage first has units for it, and kept until the run ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError
from fewstep.util.workers import in_threads
from flows.executors.engine import Cluster, Engine, Threads
from flows.orchestration.prefect_api import adopt, prefect_environment
from tasks.config.schema import Compute, Settings
from tasks.engine.group.nodes import LaunchedNodes, Link, Nodes
from tasks.engine.unit_work import UnitWork
from tasks.storage.cloneable import cloneable_code
from tasks.storage.workspace import Workspace


class Engines(contextlib.AbstractContextManager):
    """The engines of one run: what cannot be done apart is done by threads of this process."""

    def __init__(self, settings: Settings):
        self._compute, self._profile, self._stack = settings.compute, settings.profile, contextlib.ExitStack()
        self._threads, self._chosen = Threads(settings.trajectories.workers or cores()), None

    def __exit__(self, *of) -> None:
        self._stack.close()

    def execute(self, work: UnitWork, units: list[str]) -> None:
        """Have all these units done, on as many threads as their engine is wide (an `Execute` without Prefect)."""
        if units:   # no engine is opened for nothing
            engine = self.of(work)
            in_threads(engine.width)(partial(engine.run, work), units)

    def of(self, work: UnitWork) -> Engine:
        """Who does the units of this work."""
        if work.stage.apart:
            chosen = self._opened(work.context.workspace)
            if chosen is not self._threads:
                return chosen
        elif self._chosen is not None:
            self._chosen.make_room()
        return self._threads if work.stage.parallel else Threads(1)

    def nodes(self, workspace: Workspace) -> Nodes | None:
        """Those that train together, as `compute.nodes` says; None: this one alone."""
        if self._compute.nodes == 1:
            return None
        if self._compute.on.partition(":")[0] in ("slurm", "command"):
            return LaunchedNodes(self._compute)
        return _ClusterNodes(self._compute, partial(self._opened, workspace))

    def _opened(self, workspace: Workspace) -> Engine:
        if self._chosen is None:
            self._chosen = self._stack.enter_context(self._open(workspace))
        return self._chosen

    def _open(self, workspace: Workspace) -> Engine:
        """The engine that `compute.on` names; each is imported where it is wanted alone."""
        kind, _, rest = (self._compute.on or _default()).partition(":")
        if kind == "local":
            return self._threads
        if kind == "ray":
            from flows.executors.ray_cluster import RayCluster

            return RayCluster(self._compute.on, self._compute.units)
        if kind == "pool":
            if self._profile != "server":
                raise SettingsError(f"compute.on is {self._compute.on}, and the profile {self._profile!r} has no "
                                    "server that workers of a pool reach",
                                    hint="set profile: server, and PREFECT_API_URL")
            adopt(prefect_environment(workspace))
            from flows.executors.work_pool import WorkPool  # Prefect reads its environment on import

            return WorkPool(rest, self._compute.units, cloneable_code(workspace))
        from flows.executors import processes

        if kind == "slurm":
            return processes.by_slurm(rest or None, self._compute.units)
        if kind == "command":
            return processes.by_command(self._compute.launch, self._compute.units)
        return processes.Processes()


@dataclass(frozen=True)
class _ClusterNodes:
    """Nodes of the engine's cluster, which is asked when a training begins."""

    compute: Compute
    opened: Callable[[], Cluster]

    @property
    def count(self) -> int:
        return self.compute.nodes

    def start(self, count: int) -> list[Link]:
        """See Nodes."""
        from fewstep.training.distributed import devices  # loads torch

        return self.opened().take_part(count - 1, self.compute.processes or devices())


def _default() -> str:
    """Threads share one GPU, or the cores; several GPUs take a process each."""
    import torch  # whoever has units to be done has loaded it

    return "processes" if torch.cuda.device_count() > 1 else "local"
