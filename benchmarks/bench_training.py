"""A training step of each recipe against a minimal hand-written loop with the same networks and the same updates.

    python -m benchmarks.bench_training [--batch N] [--steps N] [--rounds N] [--threads N] [--json FILE]

The digits networks (8 x 8, 650,000 weights). Both sides do the same forward and backward passes, clip, step fused AdamW
and average; ours also reads verified records, draws keyed randomness, checks for NaN and keeps figures for the log.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from benchmarks import measure
from fewstep.denoiser import Denoiser
from fewstep.processes import VariancePreserving
from fewstep.recipes import Overrides, load_recipe, recipe_names
from fewstep.teachers import new_unet
from fewstep.training import RoundTrainer, Sources, TensorData
from fewstep.trajectories import TrajectorySettings, make_set

CLASSES, LIMIT = 10, 1 / 1.10


def teacher() -> Denoiser:
    network = new_unet(8, 1, CLASSES, (32, 64), 1)
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), CLASSES, CLASSES)


class Minimal:
    """What one would write by hand for one method, in memory, with PyTorch's own generator."""

    def __init__(self, batch: int, x: Tensor, y: Tensor, noise: Tensor):
        self.batch, self.x, self.y, self.noise = batch, x, y, noise
        product = torch.tensor(VariancePreserving.cosine().alphas_cumprod)
        self.alpha, self.sigma = product.sqrt()[:, None, None, None], (1 - product).sqrt()[:, None, None, None]
        self.student, self.teacher, self.fake = (teacher().network for _ in range(3))
        self.teacher.requires_grad_(False)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.head = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 1)])
        self.middle: list[Tensor] = []
        self.fake.mid_block.register_forward_hook(lambda _m, _i, output: self.middle.append(output))
        self.own = self.optimiser([self.student])
        self.other = self.optimiser([self.fake, self.head])

    @staticmethod
    def optimiser(modules: list[nn.Module]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        weights = [p for module in modules for p in module.parameters()]
        return weights, torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def update(self, loss: Tensor, optimiser: tuple, average: bool = True) -> None:
        weights, step = optimiser
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        step.step()
        step.zero_grad(set_to_none=True)
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.student.parameters()), 0.002)

    def call(self, network: nn.Module, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x0 of a v-prediction."""
        return self.alpha[t] * x_t - self.sigma[t] * network(x_t, t, class_labels=y).sample

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        i = torch.randint(len(self.x), (self.batch,))
        return self.x[i], self.y[i], self.noise[i], torch.randint(20, 980, (self.batch,))

    def kd(self) -> None:
        x, y, noise, t = self.draw()
        self.update(0.5 * (self.call(self.student, noise, torch.full_like(t, 999), y) - x).square().mean(), self.own)

    def reflow(self) -> None:
        x, y, noise, t = self.draw()
        x_t = self.alpha[t] * x + self.sigma[t] * noise
        v = self.student(x_t, t, class_labels=y).sample
        x0, epsilon = self.alpha[t] * x_t - self.sigma[t] * v, self.sigma[t] * x_t + self.alpha[t] * v
        self.update((epsilon - x0 - noise + x).square().mean(), self.own)

    def ect(self) -> None:
        x, y, _, t = self.draw()
        noise = torch.randn_like(x)
        with torch.no_grad():
            target = self.call(self.student, self.alpha[t // 2] * x + self.sigma[t // 2] * noise, t // 2, y)
        found = self.call(self.student, self.alpha[t] * x + self.sigma[t] * noise, t, y)
        self.update(((found - target).square().sum((1, 2, 3)) + 1e-5).sqrt().mean(), self.own)

    def judge(self) -> Tensor:
        places = self.middle.pop().flatten(2).transpose(1, 2)
        return self.head[1](silu(self.head[0](places))).mean((1, 2))

    def renoise(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(x)
        return self.alpha[t] * x + self.sigma[t] * noise, noise

    def dmd2(self) -> None:
        for _ in range(5):
            real, y, _, t = self.draw()
            with torch.no_grad():
                x = self.call(self.student, torch.randn_like(real), torch.full_like(t, 999), y)
            x_t, noise = self.renoise(x, t)
            v = self.fake(x_t, t, class_labels=y).sample
            fake = self.judge()
            self.fake(self.renoise(real, t)[0], t, class_labels=y)
            critic = softplus(-self.judge()).mean() + softplus(fake).mean()
            loss = (v - self.alpha[t] * noise + self.sigma[t] * x).square().mean() + 1e-2 * critic
            self.update(loss, self.other, average=False)
        _, y, noise, t = self.draw()
        self.fake.requires_grad_(False)
        self.head.requires_grad_(False)
        x = self.call(self.student, noise, torch.full_like(t, 999), y)
        x_t, _ = self.renoise(x, t)
        with torch.no_grad():
            real = self.call(self.teacher, x_t.detach(), t, y)
        fake = self.call(self.fake, x_t, t, y)
        logits = self.judge()
        direction = ((fake - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)).detach()
        self.update(0.5 * (x - (x - direction).detach()).square().mean() + 3e-3 * softplus(-logits).mean(), self.own)
        self.fake.requires_grad_(True)
        self.head.requires_grad_(True)


def variants(folder: Path, batch: int, cycles: int) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Work and images of both sides for every recipe; `cycles` of turns each."""
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(2048, 1, 8, 8, generator=source), torch.randint(CLASSES, (2048,), generator=source)
    settings = TrajectorySettings(count=2048, solver="ddim", steps=1)
    pairs = make_set(teacher(), settings, folder / "pairs", seed=0, teacher_digest="benchmark")
    work, images = {}, {}
    for name in recipe_names():
        recipe = load_recipe(name).override(Overrides(batch=batch, precision="float32"))
        needs, turns = recipe.rounds[0].needs, sum(recipe.rounds[0].turns.values())
        sources = Sources(data=TensorData(x, y) if needs.data else None, pairs=pairs if needs.pairs else None)
        networks = {role: teacher() for role in ("student", "teacher", *recipe.rounds[0].roles)}
        trainer = RoundTrainer(recipe, 0, networks, [1.0], sources, images=turns * cycles * batch)
        minimal = Minimal(batch, x, y, torch.randn(x.shape, generator=source))
        work[f"{name}"] = trainer.run
        work[f"{name}, minimal loop"] = lambda m=minimal, n=name: [getattr(m, n)() for _ in range(cycles)]
        images |= dict.fromkeys((name, f"{name}, minimal loop"), turns * cycles * batch)
    return work, images


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="cycles of turns in one measurement")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work, images = variants(Path(folder), options.batch, options.steps)
        rate = measure.rates(measure.take_turns(work, options.rounds), images)
    goals = []
    for name in recipe_names():
        found = measure.ratio(rate, name, f"{name}, minimal loop")
        goals.append(measure.goal(f"{name} over its minimal loop", found, round(LIMIT, 3)))
    text = measure.table(f"Training steps, batch {options.batch}", rate, goals, "images/s")
    figures = {"images_per_second": {name: statistics.median(v) for name, v in rate.items()}, "goals": goals}
    measure.publish(options, text, figures)
    return figures


if __name__ == "__main__":
    main()
