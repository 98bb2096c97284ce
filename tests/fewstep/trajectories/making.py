"""Small teachers, and a process that makes a set and may be killed."""

import os
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from diffusers import UNet2DModel  # noqa: F401 (so that a fork server has loaded it)

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import GaussianMixture
from fewstep.trajectories import TrajectorySet, TrajectorySettings, make_set, open_set
from fewstep.trajectories.generate import in_threads
from tests.file_events import FileEvents

TINY = TrajectorySettings(count=18, steps=2, record_size=4, records_per_shard=2)
"""Five records in three shards; the last record and the last shard are not full."""


def small_unet(null_class: bool = True) -> Denoiser:
    network = new_unet(8, 1, 10, (16, 16), 1, null_class).eval()
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 10, 10 if null_class else None)


def small_mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.0, 2.0]]), 0.2)


def make(folder: Path, settings: TrajectorySettings = TINY, teacher: Denoiser | None = None, **more) -> TrajectorySet:
    arguments = {"seed": 3, "teacher_digest": "a teacher", **more}
    return make_set(teacher if teacher is not None else small_unet(), settings, folder, **arguments)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below ``folder``: relative name → bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def work(folder: str, count: int, fatal: int | None, counted: Connection) -> None:
    """Make the set, and tell how many events that took (tests.file_events), or die before the one numbered `fatal`."""
    torch.set_num_threads(1)
    os.setsid()
    events = FileEvents(os.path.dirname(folder), fatal)
    make(Path(folder), TINY.model_copy(update={"count": count}), execute=in_threads(2))
    counted.send(events.count)


def make_alone(folder: str) -> None:
    """Make the set with one worker."""
    make(Path(folder), execute=in_threads(1))


def peak_memory(folder: str, count: int) -> int:
    """Bytes this process held at most while it made a set of 3 KiB per sample and read it once through."""
    torch.set_num_threads(1)
    teacher = GaussianMixture(torch.zeros(2, 3, 16, 16), 1.0)
    make(Path(folder), TrajectorySettings(count=count, steps=1, record_size=64, records_per_shard=4), teacher)
    found = open_set(folder, cache_bytes=4 << 20)
    for position in range(0, count, 64):
        found.batch(0, position, 64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
