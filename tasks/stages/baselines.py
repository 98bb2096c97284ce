"""The baselines stage: the teacher under training-free solvers at several costs, examined once for all students."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from fewstep.data.images import load_split, to_bytes
from fewstep.diffusion.guidance import calls, told
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.sampling import sample
from fewstep.diffusion.solvers import is_stochastic, network_evaluations, steps_for
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.extractors.extractor import load_extractor
from fewstep.metrics.latency import time_latency, time_throughput
from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.protocol import Sampling, store
from fewstep.metrics.sample_set import Sampled, collect, pack, unpack
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.util.device import default_device
from fewstep.util.errors import NonFinite, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.torch_threads import threads
from tasks.data import extractor_files

PARALLEL = True
PICTURES_PER_CLASS = 32
"""Images of every baseline that are kept for grids, of each of the first ten classes."""
TRAJECTORIES = 6
"""Samples whose way from noise is kept to be looked at."""


@dataclass(frozen=True)
class Unit:
    """One solver at one cost. `asked` are the settings' evaluation counts that it stands for."""

    solver: str
    evaluations: int
    steps: int
    asked: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.solver}-{self.evaluations}"


def plan(settings: dict) -> list[Unit]:
    """Each solver at each count of network evaluations, or at the nearest lower one that it can have.

    Heun has odd counts only; under guidance every step counts twice or more. Counts that no number of steps stays below
    are left out.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for solver in settings["solvers"]:
        for count in sorted(set(settings["baseline_steps"])):
            possible = (n for n in range(count, 0, -1) if steps_for(solver, n, settings["guidance"]) is not None)
            nearest = next(possible, None)
            if nearest is not None:
                found.setdefault((solver, nearest), []).append(count)
    guidance = settings["guidance"]
    return [Unit(solver, n, steps_for(solver, n, guidance), tuple(asked)) for (solver, n), asked in found.items()]


def teacher_unit(units: list[Unit]) -> Unit:
    """The baseline that stands for the teacher: DPM-Solver++ (else the first solver) at the highest count."""
    solvers = [unit.solver for unit in units]
    chosen = "dpmsolver++" if "dpmsolver++" in solvers else solvers[0]
    return max((unit for unit in units if unit.solver == chosen), key=lambda unit: unit.evaluations)


def check(ctx) -> None:
    """Raises SettingsError for an unknown solver, counts too low for guidance, or a teacher with other classes."""
    extractor_files.check(ctx)
    for solver in ctx.settings["solvers"]:
        network_evaluations(solver, 1, ctx.settings["guidance"])
    if not plan(ctx.settings):
        guidance = ctx.settings["guidance"]
        raise SettingsError(
            f"evaluate.baseline_steps {list(ctx.settings['baseline_steps'])} are too few network evaluations for "
            f"guidance {told(guidance)}, under which every step counts {calls(guidance)}"
        )
    teacher, data = inspect_teacher(ctx.inputs["teacher"]), load_split(ctx.inputs["shard"], "test")
    if tuple(teacher.sample_shape) != data.shape:
        raise SettingsError(
            f"the teacher draws images of shape {tuple(teacher.sample_shape)}, the data's are {data.shape} "
            f"(channels, height, width): set data.size and data.channels to the teacher's"
        )
    if teacher.num_classes and data.num_classes and teacher.num_classes != data.num_classes:
        raise SettingsError(
            f"the teacher knows {teacher.num_classes} classes, the images have {data.num_classes}: "
            f"class-conditional evaluation needs the same classes in the same order"
        )


def units(ctx) -> list[str]:
    return [unit.name for unit in plan(ctx.settings) if not _file(ctx, unit.name).is_file()]


def run_unit(ctx, unit: str) -> None:
    everything = plan(ctx.settings)
    chosen = next(one for one in everything if one.name == unit)
    teacher = _teacher(ctx)
    examination = _examination(ctx, teacher.num_classes)
    total, done = len(everything) * ctx.settings["samples"], 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        finished = sum(_file(ctx, one.name).is_file() for one in everything)
        ctx.progress(finished * ctx.settings["samples"] + done, total)

    sampled = collect(examination, _sampler(ctx, teacher, chosen), report)
    if sampled.finite < 1 and chosen == teacher_unit(everything):
        raise NonFinite(
            f"teacher: {1 - sampled.finite:.1%} of its samples with {chosen.solver} at {chosen.evaluations} network "
            f"evaluations are NaN or infinite", role="teacher",
        )  # fmt: skip
    write_atomically(_file(ctx, unit), pack(sampled))


@threads(1)
def finish(ctx) -> dict:
    everything = plan(ctx.settings)
    reference = teacher_unit(everything)
    teacher = _teacher(ctx)
    examination = _examination(ctx, teacher.num_classes)
    indices = torch.arange(ctx.settings["samples"])
    conditions = examination.conditions(indices)
    shown = pictured(conditions, len(indices))
    best = unpack(_file(ctx, reference.name)).images
    protocols: dict = {}
    rows, features, pictures, replicates = [], {}, {}, {}
    floor = {"subject": "real images", "values": store(examination.floor(), protocols),
             "classes": examination.floor_per_class()}  # fmt: skip

    def measured(unit: Unit) -> tuple[Sampled, dict, list, torch.Tensor | None]:
        sampled = unpack(_file(ctx, unit.name))
        if sampled.seen is None:
            return sampled, {}, [], None
        fd = examination.frechet(sampled.seen, conditions)
        values = examination.measure(sampled.seen, _subject(unit), conditions=conditions, images=sampled.images, fd=fd,
                                     teacher=None if unit == reference else best, sampling=_sampling(ctx, unit))
        return sampled, values, examination.per_class(sampled.seen, conditions), torch.from_numpy(fd.replicates)

    with ThreadPoolExecutor(ctx.workers) as pool:
        for unit, (sampled, values, classes, groups) in zip(everything, pool.map(measured, everything), strict=True):
            row = {"subject": _subject(unit), "solver": unit.solver, "evaluations": unit.evaluations,
                   "steps": unit.steps, "asked": list(unit.asked), "teacher": unit == reference,
                   "sampling": _sampling(ctx, unit).model_dump(), "values": store(values, protocols),
                   "classes": classes}  # fmt: skip
            pictures[unit.name] = sampled.images[shown].contiguous()
            if sampled.seen is None:
                row["note"] = f"{1 - sampled.finite:.1%} of the samples are NaN or infinite"
                ctx.warn(f"{row['subject']}: {row['note']}")
            else:
                features[unit.name] = torch.from_numpy(sampled.seen.features)
                replicates[unit.name] = groups
            rows.append(row)
    document = {"format": 1, "guidance": ctx.settings["guidance"], "features": examination.extractor.name,
                "reference": len(examination.test), "num_classes": teacher.num_classes, "floor": floor, "rows": rows,
                "protocols": protocols}  # fmt: skip
    ctx.out.mkdir(parents=True, exist_ok=True)
    save_file({"images": best}, ctx.out / "teacher.safetensors")
    save_file(features, ctx.out / "features.safetensors")
    save_file(replicates, ctx.out / "replicates.safetensors")
    ways = _trajectories(ctx, teacher, examination, reference, followed(shown), conditions, best)
    save_file({"states": ways, "indices": followed(shown)}, ctx.out / "trajectories.safetensors")
    save_file({**pictures, "indices": shown}, ctx.out / "pictures.safetensors")
    (ctx.out / "baselines.json").write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return {"samples": ctx.settings["samples"], "baselines": len(rows), "features": examination.extractor.name}


def cost(ctx) -> dict:
    """Latency of every baseline, throughput of the teacher at its highest count, and peak memory of the process."""
    everything, teacher = plan(ctx.settings), _teacher(ctx)
    best, solvers = teacher_unit(everything), {}
    examination = _examination(ctx, teacher.num_classes)
    for unit in everything:
        draw = _sampler(ctx, teacher, unit)

        def some(count: int, draw=draw) -> None:
            indices = torch.arange(count)
            draw(examination.noise(indices), examination.conditions(indices), indices).cpu()

        solvers[unit.name] = time_latency(some, repeats=5)
        if unit == best:
            timed = {**solvers[unit.name], **time_throughput(some, ctx.settings["batch"], seconds=0.5)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in teacher.parameters())
    return {"teacher": {"solver": best.solver, "evaluations": best.evaluations, **timed}, "solvers": solvers,
            "parameters": parameters, "peak_memory_mb": peak}  # fmt: skip


def pictured(conditions: torch.Tensor | None, samples: int) -> torch.Tensor:
    """Indices of the samples kept as pictures: the first of each of the first ten classes, in order of class."""
    if conditions is None:
        return torch.arange(min(samples, PICTURES_PER_CLASS * 10))
    rows = [(conditions == label).nonzero().flatten()[:PICTURES_PER_CLASS] for label in conditions.unique()[:10]]
    return torch.cat(rows)


def followed(shown: torch.Tensor) -> torch.Tensor:
    """The few of the pictured samples that are followed on their way from noise, of different classes."""
    return shown[torch.linspace(0, len(shown) - 1, min(TRAJECTORIES, len(shown))).round().long()].unique()


def _trajectories(ctx, teacher, examination: Examination, unit: Unit, indices: torch.Tensor, conditions, best):
    """(n, S + 1, C, H, W) uint8: the teacher's states from noise on, at unit variance, and the samples they end in."""
    chance = {}
    if is_stochastic(unit.solver):
        chance["generator"] = generator(ctx.settings["seed"], "evaluation-solver-pictures")
    made = sample(teacher, examination.noise(indices).to(default_device()), solver=unit.solver, steps=unit.steps,
                  condition=None if conditions is None else conditions[indices].to(default_device()),
                  guidance=ctx.settings["guidance"], keep="all", **chance)  # fmt: skip
    scale = teacher.process.scale(made.times).clamp(min=1).to(made.states)
    states = made.states / scale.reshape(1, -1, 1, 1, 1)
    return torch.cat([to_bytes(states.cpu()), best[indices][:, None]], dim=1).contiguous()


def _subject(unit: Unit) -> str:
    return f"{solver_name(unit.solver)}, {counted(unit.evaluations, 'evaluation')}"


def _sampling(ctx, unit: Unit) -> Sampling:
    return Sampling(solver=unit.solver, steps=unit.steps, evaluations=unit.evaluations,
                    guidance=ctx.settings["guidance"])  # fmt: skip


def _file(ctx, unit: str) -> Path:
    return ctx.scratch / f"{unit}.safetensors"


def _teacher(ctx):
    return load_teacher(ctx.inputs["teacher"]).to(default_device()).eval().requires_grad_(False)


def _sampler(ctx, teacher, unit: Unit):
    def draw(noise, classes, indices):
        chance = {}
        if is_stochastic(unit.solver):
            chance["generator"] = generator(ctx.settings["seed"], "evaluation-solver", int(indices[0]))
        classes = None if classes is None else classes.to(default_device())
        return sample(teacher, noise.to(default_device()), solver=unit.solver, steps=unit.steps, condition=classes,
                      guidance=ctx.settings["guidance"], **chance).x  # fmt: skip

    return draw


def _examination(ctx, num_classes: int) -> Examination:
    shards = ctx.inputs["shard"]
    return Examination(
        load_extractor(ctx.inputs["classifier"]), load_split(shards, "test"), load_split(shards, "train"),
        samples=ctx.settings["samples"], seed=ctx.settings["seed"], batch=ctx.settings["batch"],
        reference_digest=ctx.manifests["shard"].digest, num_classes=num_classes,
        more=extractor_files.load(ctx), cache=extractor_files.cache(ctx),
    )  # fmt: skip
