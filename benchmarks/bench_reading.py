"""Reading (and writing) teacher outputs: verified records against stock webdataset with two .npy members per sample.

    python -m benchmarks.bench_reading [--samples N] [--rounds N] [--json FILE] [--markdown FILE]

Both hold the same tensors: noise and latent, float16, 4 x 32 x 32 each, 16 KiB per sample. Warm page cache, one thread;
reading is timed in processor seconds, so that it can be measured on a machine that others use too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import measure
from fewstep.data.records import KeyedOrder, RecordSource, ShardReader, ShardWriter

SHAPE = (4, 32, 32)
RECORD = 256


Batches = list[tuple[int, torch.Tensor, torch.Tensor]]


def batches(samples: int) -> Batches:
    source = torch.Generator().manual_seed(0)
    pair = [torch.randn((samples, *SHAPE), generator=source).half().split(RECORD) for _ in range(2)]
    return [(number, noise, x) for number, (noise, x) in enumerate(zip(*pair, strict=True))]


def write_ours(path: Path, content: Batches) -> None:
    with ShardWriter(path) as writer:
        for n, noise, x in content:
            writer.add(f"{n:08d}", {"noise": noise, "x": x})


def write_stock(path: Path, content: Batches) -> None:
    import webdataset

    with webdataset.TarWriter(str(path)) as sink:
        for number, noise, x in content:
            for row in range(RECORD):
                arrays = {"noise.npy": noise[row].numpy(), "x.npy": x[row].numpy()}
                sink.write({"__key__": f"{number * RECORD + row:08d}", **arrays})


def read_ours(path: Path, samples: int) -> None:
    with ShardReader(path) as reader:
        found = sum(len(record.tensors["x"]) for record in reader)
    assert found == samples


def read_shuffled(path: Path, samples: int) -> None:
    source = RecordSource([path], lambda _, record: record.tensors)
    order = KeyedOrder(samples, RECORD, source.window())
    found = sum(len(source.gather(*order.locate(0, start, RECORD))["x"]) for start in range(0, samples, RECORD))
    assert found == samples


def read_stock(path: Path, samples: int) -> None:
    import webdataset

    found = sum(1 for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode() if len(sample["x.npy"]))
    assert found == samples


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16384)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    samples = options.samples // RECORD * RECORD
    with tempfile.TemporaryDirectory() as folder:
        ours, stock = Path(folder, "ours.tar"), Path(folder, "stock.tar")
        content = batches(samples)
        writing = measure.take_turns(
            {
                "ours, SHA-256 and CRC, synced": lambda: write_ours(ours, content),
                "stock TarWriter": lambda: write_stock(stock, content),
            },
            max(1, options.rounds // 3),
        )
        size = samples * 2 * 2 * torch.Size(SHAPE).numel()
        overhead = {"ours": ours.stat().st_size / size - 1, "stock": stock.stat().st_size / size - 1}
        reading = measure.take_turns(
            {
                "ours, verified": lambda: read_ours(ours, samples),
                "ours, verified, shuffled batches": lambda: read_shuffled(ours, samples),
                "stock webdataset": lambda: read_stock(stock, samples),
            },
            options.rounds,
            time.process_time,
        )
    rate = measure.rates(reading, dict.fromkeys(reading, samples))
    written = measure.rates(writing, dict.fromkeys(writing, samples))
    goals = [
        measure.goal("verified reading over stock", measure.ratio(rate, "ours, verified", "stock webdataset"), 30),
        measure.goal("writing over stock", measure.ratio(written, *written), 2),
    ]
    text = measure.table("Reading trajectories, samples of 16 KiB", rate, goals[:1], "samples per processor second")
    text += "\n" + measure.table("Writing them", written, goals[1:], "samples/s")
    text += f"\nSize over content: ours {overhead['ours']:.2%}, stock {overhead['stock']:.2%}.\n"
    figures = {
        "samples_per_second": {name: statistics.median(values) for name, values in (rate | written).items()},
        "goals": goals,
        "overhead": overhead,
    }
    measure.publish(options, text, figures)
    return figures


if __name__ == "__main__":
    main()
