"""A node of a Ray cluster that takes part in a training: an actor there, which starts the node's processes of the group
(tasks.engine.group.share) and hears and tells what `python -m tasks.unit` does."""

from __future__ import annotations

import itertools
import json
import queue
import secrets
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flows.executors.ray_told import Telling, first_line, is_alive
from tasks.engine.group.nodes import Link

_LOOKS = 50     # at what is told, to one at whether the node is alive


class RayLink(Link):
    """An actor on a node of the cluster, as `ray.nodes` has it, which waits until `wanted` of it is free.

    ear: keeps what it tells.
    """

    def __init__(self, node: dict[str, Any], wanted: dict[str, float], ear: ActorHandle):
        super().__init__(node["NodeManagerAddress"])
        self._node, self._ear, self._call = node["NodeID"], ear, secrets.token_hex(8)
        self._wanted = wanted
        self._events: list[dict[str, Any]] = []
        self._result, self._looks = None, itertools.count(1)
        there = NodeAffinitySchedulingStrategy(self._node, soft=False)
        self._actor = ray.remote(Participant).options(
            num_cpus=wanted["CPU"], num_gpus=wanted["GPU"], max_restarts=0, max_concurrency=2,
            scheduling_strategy=there).remote()

    @property
    def awaited(self) -> str:
        return f"{self.name} (until {self._wanted['CPU']} CPUs and {self._wanted['GPU']} GPUs are free there)"

    def say(self, what: dict[str, Any]) -> None:
        """See Link."""
        if self._result is None:
            self._result = self._actor.take_part.remote(json.dumps(what["share"]), self._ear, self._call)
        else:
            self._actor.say.remote(json.dumps(what))

    def _next(self) -> dict[str, Any]:
        if self._events:
            return self._events.pop(0)
        try:
            over = bool(ray.wait([self._result], timeout=0)[0])     # before what it told: all is there when it is over
            self._events += ray.get(self._ear.take.remote(self._call))
            if over:
                self._events.append(ray.get(self._result))
        except ray.exceptions.RayError as error:
            raise self._lost(f"was lost, or its node: {first_line(error)}") from error
        if next(self._looks) % _LOOKS == 0 and not self._events and not is_alive(self._node):
            raise self._lost("was lost, or its node: the cluster hears nothing of it")
        return self._events.pop(0) if self._events else {}

    def end(self) -> None:
        """See Link. The node's processes die with it."""
        ray.kill(self._actor)


class Participant:
    """The actor: a process on the node for one training."""

    def __init__(self):
        self._answers: queue.Queue[str] = queue.Queue()

    def take_part(self, share: str, ear: ActorHandle, call: str) -> dict[str, Any]:
        """The node's share of the unit; returns how it ended."""
        from tasks.engine.group.share import Share
        from tasks.unit import shared

        tell = Telling(ear, call)
        shared(Share.model_validate_json(share), self._answers.get, tell)
        return tell.end()

    def say(self, text: str) -> None:
        """An answer to what it told."""
        self._answers.put(text)
