"""An actor of a Ray cluster that does unit after unit: it keeps what units share, such as a loaded teacher, and what it
has of its node (the GPU that Ray gave it), until it is ended."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import ray
from ray.actor import ActorHandle

from fewstep.util.errors import StageFailed
from flows.executors.engine import Hearer, Lost, heard
from flows.executors.ray_told import Telling, first_line, is_alive
from tasks.engine.unit_work import UnitMessage

_PAUSE = 0.5    # seconds between two looks at what a unit tells
_LOOKS = 10     # at what is told, to one at whether its node is alive


class RayDoer:
    """An actor that begins when `wanted` of a node is free. ear: keeps what it tells."""

    def __init__(self, wanted: dict[str, float], ear: ActorHandle):
        self._ear, self._node, self.alive = ear, None, True
        self._actor = ray.remote(UnitActor).options(num_cpus=wanted["CPU"], num_gpus=wanted["GPU"],
                                                    max_restarts=0).remote()  # fmt: skip

    def do(self, work: Hearer, message: UnitMessage) -> None:
        """See Doer."""
        call = secrets.token_hex(8)
        result = self._actor.do.remote(message.model_dump_json(), self._ear, call)
        over = False
        try:
            for look in itertools.count(1):
                over = bool(ray.wait([result], timeout=_PAUSE)[0])  # before what it told: then all is there
                end = ray.get(result) if over else {}
                for event in ray.get(self._ear.take.remote(call)):
                    if "node" in event:
                        self._node = event["node"]
                    else:
                        heard(work, event)
                if over:
                    break
                if self._node and look % _LOOKS == 0 and not is_alive(self._node):
                    raise Lost("was lost, or its node: the cluster hears nothing of it")
        except ray.exceptions.RayActorError as lost:
            self.end()
            raise Lost(f"was lost, or its node: {first_line(lost)}") from lost
        except ray.exceptions.RayError as error:
            self.end()
            raise StageFailed(f"Ray did not do unit {message.unit}: {first_line(error)}",
                              hint="finished units are kept; `ray status` says how the cluster is") from error
        except BaseException:
            self.end()      # it may be in the middle of the unit
            raise
        heard(work, end)

    def end(self) -> None:
        """See Doer."""
        self.alive = False
        ray.kill(self._actor)


class UnitActor:
    """The actor."""

    def __init__(self):
        from tasks.unit import Units

        self._units = Units()

    def do(self, message: str, ear: ActorHandle, call: str) -> dict[str, Any]:
        """Does the unit, and returns how it ended."""
        from tasks.unit import done

        tell = Telling(ear, call)
        tell({"node": ray.get_runtime_context().get_node_id()})
        done(self._units, UnitMessage.model_validate_json(message), tell)
        return tell.end()
