"""What it costs to have a unit of work done by another process.

200 units of next to no work are done here, and by 1, 2 and 4 processes.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import measure
from fewstep.util.config import parse
from flows.executors.engine import Engine, Threads
from flows.executors.processes import Processes
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.runner import prepare
from tasks.engine.unit_work import UnitWork
from tests.tasks.stages.evaluation_world import World

UNITS = 200
SHARE = 0.95    # of the time of units of one second that may be work, at least
SETTINGS = {"trajectories": {"count": UNITS + 4, "steps": 1, "record_size": 1, "records_per_shard": 1},
            "distill": {"recipe": "kd"}}  # fmt: skip


class Some(Processes):
    """So many processes, whatever the machine has."""

    def __init__(self, count: int):
        self._count = count
        super().__init__()

    @property
    def width(self) -> int:
        return self._count


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    options = measure.parser(__doc__.splitlines()[0]).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.settings = parse(Settings, SETTINGS, "benchmark")
        world.run("shard")
        world.add_models()
        turns = itertools.count()
        engines = {"this process": Threads(1), **{f"{count} processes": Some(count) for count in (1, 2, 4)}}

        found: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(options.rounds):
            for name, engine in engines.items():
                found[name].append(seconds(engine, world, f"turn-{next(turns)}"))
        for engine in engines.values():
            engine.close()
    here = statistics.median(found["this process"])
    added = [(other - own) / UNITS for own, other in zip(found["this process"], found["1 processes"], strict=True)]
    shares = [1 / (1 + max(value, 0.0)) for value in added]
    goals = [measure.goal("work in units of one second by another process", {
        "median": statistics.median(shares), "least": min(shares), "greatest": max(shares)}, SHARE)]  # fmt: skip
    rates = {name: [UNITS / value for value in values] for name, values in found.items()}
    text = measure.table(f"Units by other processes: {UNITS} of {1e3 * here / UNITS:.1f} ms", rates, goals, "units/s")
    text += f"\nA unit by another process takes {1e3 * statistics.median(added):.1f} ms more than here.\n"
    measure.publish(options, text, {"seconds": found, "added": added})
    return {"seconds": found, "added": added}


def seconds(engine: Engine, world: World, work: str) -> float:
    """That `UNITS` units take once every process has done its first, which loads the teacher."""
    done = UnitWork(graph.stage("trajectories"), world.context("trajectories", work))
    prepare(done.stage, done.context)
    units = done.stage.units(done.context)
    with engine.side_by_side() as begin, ThreadPoolExecutor(engine.width) as pool:
        def do(unit: str) -> None:
            begin()
            engine.run(done, unit)

        list(pool.map(do, units[UNITS:]))
        return measure.seconds_of(lambda: list(pool.map(do, units[:UNITS])))


if __name__ == "__main__":
    main()
