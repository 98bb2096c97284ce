"""What a step asks of a device beside its networks is a count: the same each time, and less without an objective."""

from benchmarks.bench_host import Kernels, kernels, kernels_of, table
from benchmarks.made_up_device import DEVICE


def test_kernels_are_counted_without_views_and_what_stays_on_the_cpu():
    import torch

    x, y = torch.ones(4, 3, device=DEVICE), torch.ones(4)
    assert kernels(lambda: (x.t(), x[1:], x.reshape(3, 4), torch.empty_like(x), y + y)) == 0
    assert kernels(lambda: (x + 1, x.sum(), y.to(DEVICE))) == 3
    assert Kernels().count == 0


def test_the_same_count_each_time(tmp_path):
    found = [kernels_of(name, 0, tmp_path / str(k), 8) for k, name in enumerate(("kd", "kd", "ect"))]
    assert 0 < found[0] == found[1] < found[2]


def test_the_table_says_what_was_met():
    lines = table({"kd": (70.2, 0.5), "lcm": (301.0, 2.0)}).splitlines()
    assert lines[-2:] == ["| kd | 70 | 0.50 | met, met |", "| lcm | 301 | 2.00 | missed, missed |"]
