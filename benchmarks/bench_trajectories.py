"""Making trajectories: the stage against bare network calls and against diffusers' own pipeline call.

    python -m benchmarks.bench_trajectories [--compile] [--images N] [--rounds N] [--json FILE] [--markdown FILE]

A UNet of 1 M parameters on 1 x 16 x 16 images, DDIM with 20 steps. The stage is what `make_set` does: keyed noise,
solver, checksums, files synced to disk. bf16 weights, one single-threaded worker per core; the pipelines have fp32
weights, as they come, and all cores. Compilation is done once, before the clock starts; its
time is reported beside the ratios.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from benchmarks import measure
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.trajectories import SetWriter, TrajectorySettings, plan_set
from fewstep.trajectories.generate import in_threads
from fewstep.trajectories.teacher_runtime import prepare

STEPS, BATCH = 20, 64


def network() -> UNet2DModel:
    """Model A."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=16,
        ).eval()  # fmt: skip


class Stage:
    """The trajectory stage on a fresh folder whenever it is called."""

    def __init__(self, denoiser: Denoiser, count: int, workers: int, folder: Path, *, steps: int = STEPS,
                 record: int = BATCH, **settings):  # fmt: skip
        # one record per shard, so that every worker has shards to do
        self.settings = TrajectorySettings(
            count=count, solver="ddim", steps=steps, record_size=record, records_per_shard=1, **settings
        )
        self.plan = plan_set(denoiser, self.settings, seed=0, teacher_digest="model A")
        self.folder, self.workers, self.number = folder, workers, itertools.count()
        start = time.perf_counter()
        self.teacher = prepare(denoiser, self.plan)
        self.preparing = time.perf_counter() - start

    def __call__(self) -> None:
        folder = self.folder / f"{id(self)}-{next(self.number)}"
        writer = SetWriter(folder / "out", folder / "scratch", self.plan)
        in_threads(self.workers)(lambda shard: writer.make_shard(self.teacher, shard), writer.missing_shards())
        writer.finish()


def bare(teacher: Denoiser, count: int, workers: int) -> None:
    """Nothing but the network's calls that the stage makes, in as many threads."""
    model = teacher.network
    dtype = next(model.parameters()).dtype
    x = torch.randn((BATCH, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    timestep = torch.full((BATCH,), 500.0)

    def calls() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(STEPS * count // BATCH // workers):
                model(x, timestep, class_labels=None, return_dict=False)

    threads = [threading.Thread(target=calls) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pipeline_call(pipeline: DDIMPipeline, cores: int, **arguments) -> None:
    """diffusers' own call with all cores; its progress bar is drawn, and not shown."""
    torch.set_num_threads(cores)
    with contextlib.redirect_stderr(io.StringIO()):
        pipeline(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), **arguments)
    torch.set_num_threads(1)


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="images per turn of the stage")
    parser.add_argument("--compile", action="store_true", help="compile the network before the clock starts")
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    count = max(1, options.images // (BATCH * cores)) * BATCH * cores
    torch.set_num_threads(1)
    model = network()
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    pipeline = DDIMPipeline(model, scheduler)
    denoiser = Denoiser(model, VariancePreserving.cosine(), "epsilon", (1, 16, 16))
    with tempfile.TemporaryDirectory() as folder:
        kind = {"precision": "bfloat16", "compile": options.compile}
        stage = Stage(denoiser, count, cores, Path(folder), **kind)
        alone = Stage.__new__(Stage)
        alone.__dict__.update(stage.__dict__, workers=1, number=itertools.count(10**6))
        variants = {
            "stage": (stage, count),
            "bare network calls": (lambda: bare(stage.teacher, count, cores), count),
            "pipeline as it comes": (lambda: pipeline_call(pipeline, cores), 1),
            "pipeline, batched": (lambda: pipeline_call(pipeline, cores, batch_size=BATCH, output_type="np"), BATCH),
        }
        times = measure.take_turns({name: work for name, (work, _) in variants.items()}, options.rounds)
        single = {"stage, one worker": alone, "bare network calls, one worker": lambda: bare(stage.teacher, count, 1)}
        busy = measure.take_turns(single, options.rounds, time.process_time)
    rate = measure.rates(times, {name: amount for name, (_, amount) in variants.items()})
    busy_rate = measure.rates(busy, dict.fromkeys(busy, count))
    goals = [
        measure.goal("stage over bare calls", measure.ratio(rate, "stage", "bare network calls"), 0.95),
        measure.goal("the same, one worker, processor time", measure.ratio(busy_rate, *busy), 0.95),
        measure.goal("stage over pipeline as it comes", measure.ratio(rate, "stage", "pipeline as it comes"), 8),
        measure.goal("stage over batched pipeline", measure.ratio(rate, "stage", "pipeline, batched"), 1.8),
    ]
    parameters = sum(p.numel() for p in model.parameters())
    title = f"Making trajectories: UNet of {parameters / 1e6:.2f} M parameters, {cores} workers, bf16"
    text = measure.table(title + (", compiled" if options.compile else ""), rate, goals, "images/s")
    if options.compile:
        text += f"\nCompilation took {stage.preparing:.0f} s.\n"
    figures = {
        "images_per_second": {name: statistics.median(values) for name, values in rate.items()},
        "images_per_processor_second": {name: statistics.median(values) for name, values in busy_rate.items()},
        "goals": goals,
        "compile_seconds": stage.preparing if options.compile else None,
        "parameters": parameters,
    }
    measure.publish(options, text, figures)
    return figures


if __name__ == "__main__":
    main()
