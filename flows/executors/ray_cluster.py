"""Units by actors of a Ray cluster, and nodes of it that take part in a training.

Nodes get the code of this process; what it imports must be installed on them.

A node that sees the run's folder works in it. Another finds what a unit needs in the store that hosts share, and leaves
there what it made (tasks.engine.unit_exchange); its credentials are its own environment's.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from fewstep.util.errors import NotAvailable, SettingsError
from fewstep.util.source_code import ROOT
from flows.executors.engine import Kept
from flows.executors.ray_told import Ear, first_line
from tasks.config.schema import UnitResources
from tasks.engine.group.meeting import own_address
from tasks.engine.group.nodes import Link

if TYPE_CHECKING:
    from flows.executors.ray_doer import RayDoer

_CODE = ("fewstep", "tasks", "flows", "infra")


class RayCluster(Kept):
    """The cluster at `address`: `ray://HOST:PORT`, or `ray` for the one that this host belongs to (or RAY_ADDRESS).

    Raises SettingsError without Ray, NotAvailable without the cluster.
    """

    attempts = 3

    def __init__(self, address: str, units: UnitResources):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise SettingsError(f"compute.on is {address}, and Ray is not installed",
                                hint="pip install 'fewstep[ray]', on every node too") from None
        self._ray, self._address = ray, address
        _require_answer(address)
        modules = [str(ROOT / name) for name in _CODE if (ROOT / name).is_dir()]
        try:
            ray.init("auto" if address == "ray" else address, runtime_env={"py_modules": modules}, log_to_driver=False,
                     logging_level=logging.ERROR)
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise NotAvailable(f"no Ray cluster answers at {address}: {first_line(error)}",
                               hint="`ray status` on a node of it says how it is") from error
        self._units = {"CPU": units.cpus, "GPU": self._gpus_of(units)}
        self._width = min(units.most, sum(_places(node, self._units) for node in ray.nodes() if node["Alive"]))
        if self._width < 1:
            most = [max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
                    for name in self._units]  # fmt: skip
            ray.shutdown()
            raise SettingsError(f"a unit asks for {units.cpus} CPUs and {self._units['GPU']} GPUs of one node, and no "
                                f"node of the Ray cluster at {address} has both (the most: {most[0]:g} and "
                                f"{most[1]:g})", hint="change compute.units")
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False)    # what listens must not be lost with a node
        self._ear = ray.remote(Ear).options(num_cpus=0, scheduling_strategy=here).remote()
        super().__init__()

    def _gpus_of(self, units: UnitResources) -> int:
        """Null: one where there are any."""
        return int(self._ray.cluster_resources().get("GPU", 0) > 0) if units.gpus is None else units.gpus

    @property
    def width(self) -> int:
        return self._width

    def start(self, place: int) -> RayDoer:
        from flows.executors.ray_doer import RayDoer  # loads Ray

        return RayDoer(self._units, self._ear)

    def waits_for(self) -> str:
        """See Kept: what is free of the cluster."""
        free = self._ray.available_resources()
        return (f"a unit waits for {_words(self._units)} of one node of the Ray cluster at {self._address}, of which "
                f"{_words(free)} are free on all nodes together")

    def take_part(self, count: int, each: int) -> list[Link]:
        """What takes part in a training on `count` nodes but this one, with `each` processes there, a GPU each where
        this process has one."""
        import torch

        from flows.executors.ray_share import RayLink

        wanted = {"CPU": each, "GPU": each if torch.cuda.is_available() else 0}
        links: list[Link] = []
        try:
            links += [RayLink(node, wanted, self._ear) for node in self._others(count, wanted)]
        except BaseException:
            for link in links:
                link.end()
            raise
        return links

    def _others(self, count: int, wanted: dict[str, int]) -> list[dict[str, Any]]:
        """So many nodes that are not this host and have what is wanted, taken or not."""
        found = [node for node in self._ray.nodes() if node["Alive"] and not self._is_here(node)
                 and _places(node, wanted)]
        if len(found) < count:
            raise SettingsError(
                f"compute.nodes is {count + 1}, and of the Ray cluster at {self._address} {len(found)} nodes beside "
                f"this host have {wanted['CPU']} CPUs and {wanted['GPU']} GPUs each",
                hint="change compute.nodes or compute.processes; `ray status` says what there is")
        return sorted(found, key=lambda node: node["NodeID"])[:count]

    def _is_here(self, node: dict[str, Any]) -> bool:
        """Whether it is the node that this host is: known by its id to a member, by its address to a client."""
        if self._address == "ray":
            return node["NodeID"] == self._ray.get_runtime_context().get_node_id()
        return node["NodeManagerAddress"] == own_address(self._address.removeprefix("ray://").rpartition(":")[0])

    def close(self) -> None:
        super().close()
        self._ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises NotAvailable where nobody listens: Ray itself asks for minutes."""
    place = os.environ.get("RAY_ADDRESS", "") if address == "ray" else address
    host, _, port = place.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return      # Ray knows other names of clusters
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise NotAvailable(f"no Ray cluster answers at {place}: {error}",
                           hint="`ray status` on a node of it says how it is") from error


def _places(node: dict[str, Any], wanted: dict[str, int]) -> int:
    """How many times a node, as `ray.nodes` has it, has what is wanted."""
    return min(int(node["Resources"].get(name, 0) // amount) for name, amount in wanted.items() if amount)


def _words(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
