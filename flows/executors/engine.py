"""What an engine is: this process itself, or one that has others do the units."""

from __future__ import annotations

import collections
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from fewstep.util.errors import StageFailed, from_json
from flows.executors.long_waits import LongWaits
from tasks.engine.events import told_of_unit
from tasks.engine.group.nodes import Link
from tasks.engine.unit_work import UnitMessage, UnitWork

_IDLE = 5.0     # seconds without a unit, after which one makes room for who waits for it


class Lost(Exception):
    """The process that did a unit has ended before it; the message says how."""


class Engine(ABC):
    """Does units of work. Used as a context manager: at its end whatever it has started has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    @abstractmethod
    def width(self) -> int:
        """How many units it does at once."""

    @abstractmethod
    def run(self, work: UnitWork, unit: str) -> None:
        """Do one unit; up to `width` threads call this at once. Raises what the unit raises, StageFailed where its
        process is lost."""

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[Callable[[], None]]:
        """Around units that are done at once; each thread calls what this yields before its first one."""
        yield lambda: None

    def make_room(self) -> None:  # noqa: B027 (an engine that keeps nobody has nobody to end)
        """End who is kept for further units and does none now: they hold memory of devices, or places of a cluster,
        that a training here needs."""

    def close(self) -> None:  # noqa: B027 (an engine that starts nothing has nothing to end)
        """End what was started."""


class Threads(Engine):
    """Threads of this process, which compute with one thread each where they are several."""

    def __init__(self, width: int):
        self._width = width

    @property
    def width(self) -> int:
        return self._width

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[Callable[[], None]]:
        from fewstep.util.torch_threads import one_thread_each  # torch

        with one_thread_each() as begin:
            yield begin

    def run(self, work: UnitWork, unit: str) -> None:
        work(unit)


class Apart(Engine):
    """Has other processes do units, which are messages to them.

    Attributes:
        far: whether who does a unit may not see this disk.
        attempts: at a unit whose process is lost. What a unit itself raises is not tried again.
    """

    far = True
    attempts = 1

    def run(self, work: UnitWork, unit: str) -> None:
        with told_of_unit(work.context.observer, work.stage.name, unit):
            self._until_done(work, work.message(unit, far=self.far))

    def _until_done(self, work: UnitWork, message: UnitMessage) -> None:
        for attempt in range(1, self.attempts + 1):
            counted = Counted(work)
            try:
                return self.attempt(counted, message)
            except Lost as lost:
                said = f"the process that did unit {message.unit} of stage '{work.stage.name}' {lost}"
                if attempt == self.attempts:
                    times = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise StageFailed(said + times, hint="finished units are kept; the next start does the others"
                                      ) from None
                counted.take_back()
                work.context.warn(f"{said}; the unit is done again")

    @abstractmethod
    def attempt(self, work: Hearer, message: UnitMessage) -> None:
        """Have a process do the unit, and take in what it tells of it. Raises what the unit raises, and Lost."""


class Cluster(Protocol):
    """An engine whose nodes can take part in a training."""

    def take_part(self, count: int, each: int) -> list[Link]:
        """What takes part on `count` nodes but this one, with `each` processes there. Raises SettingsError where there
        are not so many."""


class Doer(Protocol):
    """Does unit after unit, somewhere else."""

    @property
    def alive(self) -> bool:
        """Whether it may do another one."""

    def do(self, work: Hearer, message: UnitMessage) -> None:
        """Do a unit, and take in what is told of it. Raises what the unit raises, and Lost."""

    def end(self) -> None:
        """End what it is, in the middle of a unit too."""


class Kept(Apart):
    """Starts up to `width` who do unit after unit, as they are needed, and keeps them until the run ends, or trains.

    A place where two were lost one after the other is given up as long as there is another: its host may be gone. One
    who has nothing to do is ended where another one waits for room (in a queue of a cluster), which it may be holding.
    """

    def __init__(self):
        self._kept: dict[int, Doer] = {}
        self._changed = threading.Condition()   # guards what follows
        self._free = list(reversed(range(self.width)))      # the last one is the next
        self._waiting: set[int] = set()         # places where one was started and is not heard of yet
        self._losses, self._places = collections.Counter(), self.width
        self._timers: dict[int, threading.Timer] = {}
        self._long_waits = LongWaits(self.waits_for)

    @abstractmethod
    def start(self, place: int) -> Doer:
        """Start one for the place (from 0 to `width` - 1)."""

    @abstractmethod
    def waits_for(self) -> str:
        """What who was started may be waiting for, in words."""

    def attempt(self, work: Hearer, message: UnitMessage) -> None:
        place = self._taken()
        try:
            doer = self._kept.get(place)
            if doer is None or not doer.alive:
                self._begins(place, work)
                doer = self._kept[place] = self.start(place)
            else:
                self._begun(place)
            doer.do(_Noticed(work, lambda: self._begun(place)), message)
        except Lost as lost:
            if self._give_up(place):
                raise Lost(f"{lost}, a second time there: nothing more is asked of place {place + 1}") from lost
            self._put_back(place)
            raise
        except BaseException:
            self._put_back(place)
            raise
        self._losses.pop(place, None)
        self._put_back(place)

    def _taken(self) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            return self._free.pop()

    def _put_back(self, place: int) -> None:
        self._long_waits.over(place)
        with self._changed:
            self._waiting.discard(place)
            self._free.append(place)
            self._changed.notify()
            self._watch_idle()

    def _begins(self, place: int, work: Hearer) -> None:
        self._long_waits.begins(place, work)
        with self._changed:
            self._waiting.add(place)
            self._watch_idle()

    def _begun(self, place: int) -> None:
        self._long_waits.at_work(place)
        with self._changed:
            self._waiting.discard(place)

    def _watch_idle(self) -> None:
        """While one waits, see after a while which of the others have still nothing to do."""
        if not self._waiting:
            return
        for place in self._free:
            if place in self._kept and place not in self._timers:
                timer = self._timers[place] = threading.Timer(_IDLE, self._end_idle, (place,))
                timer.daemon = True
                timer.start()

    def _end_idle(self, place: int) -> None:
        with self._changed:
            self._timers.pop(place, None)
            idle = self._kept.pop(place, None) if self._waiting and place in self._free else None
        if idle is not None:
            idle.end()

    def _give_up(self, place: int) -> bool:
        """Whether nothing more is to be done in this place, where one was lost."""
        self._long_waits.over(place)
        with self._changed:
            self._waiting.discard(place)
            self._losses[place] += 1
            given_up = self._losses[place] > 1 and self._places > 1
            self._places -= given_up
            return given_up

    def make_room(self) -> None:
        with self._changed:
            idle = [self._kept.pop(place) for place in self._free if place in self._kept]
        for doer in idle:
            doer.end()

    def close(self) -> None:
        self._long_waits.close()
        with self._changed:
            timers, self._timers = list(self._timers.values()), {}
            self._waiting.clear()
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
        for doer in self._kept.values():
            doer.end()
        self._kept.clear()


class _Noticed:
    """Work that hears events, the first of which somebody waits for."""

    def __init__(self, work: Hearer, noticed: Callable[[], None]):
        self._work, self._noticed = work, noticed

    def hear(self, event: dict[str, Any]) -> None:
        self._noticed()
        if "begun" not in event:
            self._work.hear(event)


class Hearer(Protocol):
    """Takes in what a unit tells: a `UnitWork`, or what passes on to one."""

    def hear(self, event: dict[str, Any]) -> None: ...


class Counted:
    """Work that hears events, and can take back what it counted of a unit that will be done again."""

    def __init__(self, work: UnitWork):
        self._work, self._done = work, 0

    def hear(self, event: dict[str, Any]) -> None:
        self._done += event.get("advance", 0)
        self._work.hear(event)

    def take_back(self) -> None:
        self._work.context.advance(-self._done)


def heard(work: Hearer, event: dict[str, Any]) -> bool:
    """Take in an event of `tasks.unit`; whether the unit is done. Raises the error that it tells of."""
    if "error" in event:
        raise from_json(event["error"])
    if event.get("done"):
        return True
    work.hear(event)
    return False
