"""What compiling a network saves in a training step and in sampling, and what it takes.

    python -m benchmarks.bench_compile [--size small|middle] [--rounds N] [--json FILE]

Processor time of one thread of the same step (forward, backward, fused AdamW) and of the same call without a graph: the
network as it is, compiled whole, and compiled block by block; by turns. What the first call takes more than the others
is what compiling takes, waiting included; with a warm cache of inductor it is less. It takes ten minutes and more.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import measure
from fewstep.networks.network_blocks import blocks
from fewstep.networks.unet_mlp import new_unet

SIZES = {"small": (8, (32, 32), 1, 128), "middle": (16, (64, 128, 128), 2, 64)}
PLAIN, WHOLE, BLOCKS = "as it is", "compiled whole", "compiled by blocks"
STEPS = 3   # of one measurement


def forms(network: nn.Module) -> dict[str, nn.Module]:
    """The network and its copies that are compiled at their first call."""
    found = {PLAIN: network, WHOLE: copy.deepcopy(network), BLOCKS: copy.deepcopy(network)}
    found[WHOLE].compile(dynamic=False, fullgraph=True)
    for block in blocks(found[BLOCKS]):
        block.forward = torch.compile(block.forward, dynamic=False, fullgraph=True)
    return found


def training(network: nn.Module, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A step."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        (network(x, t, class_labels=labels).sample - x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


@torch.no_grad()
def _sample(network: nn.Module, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> None:
    network(x, t, class_labels=labels)


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    side, channels, layers, batch = SIZES[options.size]
    network = new_unet(side, 1, 10, channels, layers, generator=torch.Generator().manual_seed(0)).eval()
    source = torch.Generator().manual_seed(0)
    given = (torch.randn(batch, 1, side, side, generator=source), 999 * torch.rand(batch, generator=source),
             torch.randint(10, (batch,), generator=source))  # fmt: skip
    texts, figures = [], {}
    for what, work_of in (("training step", training), ("call without a graph", lambda *a: partial(_sample, *a))):
        work = {name: work_of(one, *given) for name, one in forms(network).items()}
        first = {name: measure.seconds_of(one) for name, one in work.items()}
        rate = measure.rates(measure.take_turns({name: partial(_often, one) for name, one in work.items()},
                                                options.rounds, time.process_time), dict.fromkeys(work, STEPS * batch))
        ratios = {name: measure.ratio(rate, name, PLAIN) for name in (WHOLE, BLOCKS)}
        goals = [measure.goal(f"{name} over {PLAIN}", ratio, 1.0) for name, ratio in ratios.items()]
        texts.append(measure.table(f"A {what}, {sum(p.numel() for p in network.parameters()):,} parameters, batch "
                                   f"{batch}", rate, goals, "images/s"))  # fmt: skip
        texts.append("First calls: " + ", ".join(f"{name} {spent:.0f} s" for name, spent in first.items()) + ".\n")
        figures[what] = {"rates": {name: statistics.median(own) for name, own in rate.items()}, "goals": goals,
                         "first_seconds": first}  # fmt: skip
    measure.publish(options, "\n".join(texts), figures)
    return figures


def _often(work: Callable[[], None]) -> None:
    for _ in range(STEPS):
        work()


if __name__ == "__main__":
    main()
