"""Units as tasks of a Ray cluster, and nodes of it that take part in a training.

Nodes get the code of this process; what it imports must be installed on them.

A node that sees the run's folder works in it. Another finds what a unit needs in the store that hosts share, and leaves
there what it made (tasks.engine.unit_exchange); its credentials are its own environment's.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any

from fewstep.util.errors import NotAvailable, SettingsError, StageFailed
from fewstep.util.source_code import ROOT
from flows.executors.engine import Apart, Hearer, Lost, heard
from flows.executors.ray_told import Ear, Telling, first_line, is_alive
from tasks.config.schema import UnitResources
from tasks.engine.group.meeting import own_address
from tasks.engine.group.nodes import Link
from tasks.engine.unit_work import UnitMessage

if TYPE_CHECKING:
    from tasks.unit import Units

_CODE = ("fewstep", "tasks", "flows", "infra")
_PAUSE = 0.5    # seconds between two looks at what a unit tells
_LOOKS = 10     # at what is told, to one at whether its node is alive


class RayCluster(Apart):
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
        there = ray.cluster_resources()
        gpus = min(1, int(there.get("GPU", 0))) if units.gpus is None else units.gpus
        wanted = {name: amount for name, amount in (("CPU", units.cpus), ("GPU", gpus)) if amount}
        self._width = min([units.most, *(int(there.get(name, 0) // amount) for name, amount in wanted.items())])
        if self._width < 1:
            self.close()
            raise SettingsError(f"a unit asks for {units.cpus} CPUs and {gpus} GPUs, the Ray cluster at {address} has "
                                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}", hint="change compute.units")
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False)    # what listens must not be lost with a node
        self._ear = ray.remote(Ear).options(num_cpus=0, scheduling_strategy=here).remote()
        self._do = ray.remote(do_unit).options(num_cpus=units.cpus, num_gpus=gpus, max_retries=0)

    @property
    def width(self) -> int:
        return self._width

    def attempt(self, work: Hearer, message: UnitMessage) -> None:
        errors = self._ray.exceptions
        try:
            self._attempt(work, message.model_dump_json())
        except (errors.WorkerCrashedError, errors.NodeDiedError) as lost:
            raise Lost(f"was lost, or its node: {first_line(lost)}") from lost
        except errors.RayError as error:
            raise StageFailed(f"Ray did not do unit {message.unit}: {first_line(error)}",
                              hint="finished units are kept; `ray status` says how the cluster is") from error

    def _attempt(self, work: Hearer, message: str) -> None:
        ray, call = self._ray, secrets.token_hex(8)
        result = self._do.remote(message, self._ear, call)
        try:
            node = None
            for look in itertools.count(1):
                over = bool(ray.wait([result], timeout=_PAUSE)[0])
                end = ray.get(result) if over else {}
                for event in ray.get(self._ear.take.remote(call)):
                    if "node" in event:
                        node = event["node"]
                    else:
                        heard(work, event)
                if over:
                    break
                if node and look % _LOOKS == 0 and not is_alive(node):
                    raise Lost("was lost, or its node: the cluster hears nothing of it")
            heard(work, end)
        except BaseException:
            ray.cancel(result, force=True)
            raise

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
                 and all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items())]
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


def do_unit(message: str, ear: Any, call: str) -> dict[str, Any]:
    """A task of Ray: does the unit, and returns how it ended. The processes of a node keep what units share."""
    import ray

    from tasks.engine.unit_work import UnitMessage
    from tasks.unit import done

    tell = Telling(ear, call)
    tell({"node": ray.get_runtime_context().get_node_id()})
    done(_units(), UnitMessage.model_validate_json(message), tell)
    return tell.end()


_KEPT: list[Units] = []


def _units() -> Units:
    from tasks.unit import Units

    if not _KEPT:
        _KEPT.append(Units())
    return _KEPT[0]
