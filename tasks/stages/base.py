"""The contract between a stage, which does the work, and the engine, which makes its result trustworthy. No torch here.

A stage is a subclass of `Stage` in a file of this folder, and is found by being there (tasks.engine.graph). The graph
reads every stage's file before any work, to decide whether there is any: libraries that take seconds to load (torch and
all that imports it) are imported inside the methods that compute.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from fewstep.util.config import Strict, parse
from tasks.config.schema import Parallel, Settings
from tasks.engine.events import Observer
from tasks.engine.manifest import Manifest
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.engine.group.nodes import Nodes

S = TypeVar("S", bound=Strict)
R = TypeVar("R", bound=Strict)
T = TypeVar("T")
Outside = Literal["images", "prompts", "teacher", "encoders", "recipe"]
"""What settings may bring in from outside the pipeline: a folder of images, a file of prompts, a saved teacher, the
same but for the weights of its denoiser, a recipe file."""


@dataclass
class Context(Generic[S]):
    """What a stage works with.

    Attributes:
        stage: name of the stage.
        key: identity of the output: SHA-256 of code, settings, seed and inputs (tasks.engine.stage_key).
        settings: the stage's own settings, resolved.
        seed: seed of the experiment.
        inputs: verified output folders of earlier stages, by stage name; read only.
        manifests: their manifests.
        outside: paths of what the settings bring in from outside the pipeline.
        work: folder of this work; it survives kills.
        previous: the output published now, whatever its key; None without one.
        previous_code_equal: whether `previous` was made by this code, or by code accepted as equal to it.
        workspace: the checkout.
        workers: units that may run at once; changes no byte.
        processes: of a node that may share a unit, None: one for each GPU, else for each core; changes no byte.
        nodes: where further processes that share a unit can be started; None: here alone.
        parallel, reshard: what each of these holds, and whether that may change on the way, as `compute` has it.
        checkpoint_images: images between two checkpoints, None: by time; changes no byte.
        gradient_checkpointing, ema_device: as `distill` has them; they change no byte of what does not say so itself.
        observer: who is told of progress and warnings.
        cost: durations, latency, memory: all that never repeats.
    """

    stage: str
    key: str
    settings: S
    seed: int
    inputs: dict[str, Path]
    manifests: dict[str, Manifest]
    outside: dict[str, Path]
    work: Path
    workspace: Workspace
    previous: Path | None = None
    previous_code_equal: bool = True
    workers: int = 1
    processes: int | None = 1
    nodes: Nodes | None = None
    parallel: Parallel = "replicate"
    reshard: bool = False
    checkpoint_images: int | None = None
    gradient_checkpointing: bool = False
    ema_device: Literal["cpu"] | None = None
    observer: Observer = field(default_factory=Observer)
    cost: dict = field(default_factory=dict)

    def __post_init__(self):
        self._lock = threading.Lock()
        self._done, self._total, self._unit = 0, 0, "images"
        self._once: dict[Callable, Any] = {}
        self._making = threading.RLock()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other thread that works with this context is in such a block."""
        with self._making:
            yield

    def once(self, make: Callable[[Context[S]], T]) -> T:
        """`make(self)`, made at the first call; the threads that work with this context share it."""
        with self._making:
            if make not in self._once:
                self._once[make] = make(self)
            return self._once[make]

    @property
    def out(self) -> Path:
        """The folder that becomes the output, whole."""
        return self.work / "out"

    @property
    def scratch(self) -> Path:
        """Checkpoints and finished units; deleted after publishing."""
        return self.work / "scratch"

    def progress(self, done: int, total: int, unit: str = "images", metrics: dict[str, float] | None = None,
                 step: int | None = None) -> None:
        """Tell the observer that `done` of `total` units of work are done; any thread may call."""
        with self._lock:
            self.observer.stage_progress(self.stage, done, total, unit, metrics, step)

    def expect(self, total: int, done: int = 0, unit: str = "images") -> None:
        """Of `total` so many are done: from here on `advance` counts, in whatever thread or process a unit is done."""
        with self._lock:
            self._done, self._total, self._unit = done, total, unit

    def advance(self, count: int) -> None:
        """Tell the observer that `count` more are done."""
        with self._lock:
            self._done = min(self._done + count, self._total)
            self.observer.stage_progress(self.stage, self._done, self._total, self._unit, None, None)

    def warn(self, text: str) -> None:
        """Tell the observer what a person should know and what does not stop the stage."""
        with self._lock:
            self.observer.stage_warned(self.stage, text)

    def note(self, text: str) -> None:
        """Tell the observer what the stage is about to do, beside its progress."""
        with self._lock:
            self.observer.stage_noted(self.stage, text)

    def record_cost(self, figures: dict) -> None:
        """Add figures to data/cost/<stage>.json, which is outside every digest and key."""
        with self._lock:
            self.cost.update(figures)


class Stage(ABC, Generic[S, R]):
    """One stage of the pipeline. Class attributes declare it; methods do its work.

    Attributes:
        name: name in dvc.yaml, in messages and of the stage's folder of work.
        output: output folder, relative to the checkout.
        settings_type: pydantic model of the resolved settings; all that it holds enters the key.
        inputs: names of the stages whose outputs this one reads.
        outside: what it reads from outside the pipeline, where the settings bring that in.
        params: sections of params.yaml that decide the resolved settings; DVC watches them.
        in_dvc: whether the output is data that DVC versions.
        parallel: whether units are independent of each other and may run at once in threads of one process.
        apart: whether units may be done by other processes, each of which has the inputs and a folder of work.
        metrics: files of the output that `dvc metrics` shows.
        plots: definitions for `dvc plots`, by title.
    """

    name: ClassVar[str]
    output: ClassVar[str]
    settings_type: ClassVar[type[Strict]]
    inputs: ClassVar[tuple[str, ...]] = ()
    outside: ClassVar[tuple[Outside, ...]] = ()
    params: ClassVar[tuple[str, ...]] = ()
    in_dvc: ClassVar[bool] = True
    parallel: ClassVar[bool] = False
    apart: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ()
    plots: ClassVar[tuple[dict, ...]] = ()

    @abstractmethod
    def resolve(self, settings: Settings) -> S:
        """The stage's own settings out of params.yaml. Raises SettingsError where they cannot be resolved."""

    def parse(self, data: dict[str, Any], source: str) -> S:
        """Resolved settings as a manifest holds them, parsed again. Raises SettingsError naming `source`."""
        return parse(self.settings_type, data, source)

    def terms(self, settings: S) -> Iterable[str]:
        """Names of the terms of objectives (folders of fewstep/objectives) whose code decides the output."""
        return ()

    def absent(self, workspace: Workspace, manifest: Manifest) -> str | None:
        """Why a verified output is not enough (a database that is gone); None if it is."""
        return None

    def check(self, context: Context[S]) -> None:
        """Refuse, before any work, what cannot succeed. Raises SettingsError."""

    @abstractmethod
    def units(self, context: Context[S]) -> list[str]:
        """Names of the units of work that are not finished; a unit is what a kill can cost.

        Where units count as they go (`Context.advance`), this says of how many (`Context.expect`).
        """

    @abstractmethod
    def run_unit(self, context: Context[S], unit: str) -> None:
        """Do one unit of work, from its newest checkpoint. Its result lies in `context.work` when this returns."""

    def parts(self, settings: S, unit: str | None = None) -> int:
        """Parts of every batch of this unit (None: of the one with most) that processes may share; 1: it is the work of
        one process."""
        return 1

    def join(self, context: Context[S], unit: str) -> None:
        """What every further process does of a unit that several share: the same steps, and nothing is written."""
        raise NotImplementedError(f"stage '{self.name}' has no work that processes share")

    @abstractmethod
    def finish(self, context: Context[S]) -> R:
        """Make `context.out` out of the finished units; a killed `finish` is called again.

        What is returned becomes the summary in the manifest.
        """

    def costs(self, context: Context[S]) -> dict:
        """Figures for data/cost/<stage>.json beside the durations, measured after `finish`."""
        return {}

    def beside(self, workspace: Workspace) -> Path | None:
        """Make what stands beside the output and enters no key (a report); returns its folder."""
        return None

    def shortened(self, settings: S) -> S:
        """Settings of a run of this stage that takes seconds and goes through the same code (tasks.engine.accept)."""
        return settings
