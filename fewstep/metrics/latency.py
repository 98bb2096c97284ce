"""How long sampling takes. Durations never repeat: they go to cost.json and into no digest."""

import time
from collections.abc import Callable

import numpy as np

from fewstep.metrics.protocol import rounded


def time_sampling(draw: Callable[[int], object], batch: int, *, repeats: int = 15, seconds: float = 1.0) -> dict:
    """Latency of one image and throughput of a batch.

    Args:
        draw: makes that many samples and returns when they are there.
        batch: size of the batch for throughput.
        repeats: calls with one image, after two that do not count.
        seconds: batches are repeated, after one that does not count, until this much time has passed.

    Returns:
        latency_ms (median), latency_ms_p95, images_per_second, with batch and repeats.
    """
    return {**time_latency(draw, repeats), **time_throughput(draw, batch, seconds)}


def time_latency(draw: Callable[[int], object], repeats: int = 15) -> dict:
    """The first two of `time_sampling`'s figures, and repeats."""
    for _ in range(2):
        draw(1)
    single = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw(1)
        single.append(1e3 * (time.perf_counter() - start))
    return {
        "latency_ms": rounded(float(np.median(single))),
        "latency_ms_p95": rounded(float(np.quantile(single, 0.95))),
        "repeats": repeats,
    }


def time_throughput(draw: Callable[[int], object], batch: int, seconds: float = 1.0) -> dict:
    """images_per_second in batches, and batch."""
    draw(batch)
    made, start = 0, time.perf_counter()
    while made == 0 or time.perf_counter() - start < seconds:
        draw(batch)
        made += batch
    rate = made / (time.perf_counter() - start)
    return {"images_per_second": rounded(rate), "batch": batch}
