"""The evaluate stage: the student beside teacher, training-free solvers and real images, under one protocol."""

import csv
import io
import json
import resource
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fewstep.data.images import load_split, to_bytes
from fewstep.metrics.comparison.equal_evaluations import equivalent_evaluations
from fewstep.metrics.distances.frechet import Extrapolated
from fewstep.metrics.evaluator import NEAREST, Examination
from fewstep.metrics.extractors.extractor import load_extractor
from fewstep.metrics.latency import time_sampling
from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.protocol import Sampling, restore, rounded, store
from fewstep.metrics.sample_set import Sampled, collect, pack, unpack
from fewstep.students.export import load_student
from fewstep.util.device import default_device
from fewstep.util.errors import NonFinite, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.image_grid import Block, save, side_by_side
from fewstep.util.torch_threads import threads
from tasks.data import extractor_files

PARALLEL = True
HEADLINE = ("fd_infinite", "kid", "mmd", "precision", "recall", "density", "coverage", "diversity", "class_accuracy",
            "agreement_rms", "nearest_ratio", "nearest_ratio_features")  # fmt: skip
AGAINST = ("fd_ratio", "kid_ratio", "kid_difference", "kid_difference_error", "fd_excess", "fd_excess_teacher",
           "equals_evaluations")  # fmt: skip
MEASURED = ("samples", "seed", "noise", "conditions", "reference", "reference_samples", "reference_digest",
            "reference_statistics", "features", "features_digest", "dimensions", "resized", "antialiased",
            "value_range", "clipped", "quantised")  # fmt: skip
CLOSEST = 12
"""Samples that are shown with their nearest training images."""
REPORT = "report.safetensors"


def check(ctx) -> None:
    """Raises SettingsError when the baselines were made under another protocol."""
    extractor_files.check(ctx)
    made = ctx.manifests["baselines"].settings
    for name in ("samples", "seed", "batch", "extractors"):
        if made.get(name) != ctx.settings[name]:
            raise SettingsError(
                f"evaluate.{name} is {ctx.settings[name]}, the baselines were made with {made.get(name)}: "
                f"run the baselines stage first"
            )


def units(ctx) -> list[str]:
    return [f"steps-{steps}" for steps in _steps(ctx) if not _file(ctx, steps).is_file()]


def run_unit(ctx, unit: str) -> None:
    steps = int(unit.removeprefix("steps-"))
    student = _student(ctx)
    examination = _examination(ctx, student)
    total, done = len(_steps(ctx)) * ctx.settings["samples"], 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        finished = sum(_file(ctx, one).is_file() for one in _steps(ctx))
        ctx.progress(finished * ctx.settings["samples"] + done, total)

    sampled = collect(examination, _sampler(ctx, student, steps), report)
    if sampled.finite < 1:
        share, cost = f"{1 - sampled.finite:.1%}", counted(steps, "step")
        raise NonFinite(f"student: {share} of its samples with {cost} are NaN or infinite", role="student")
    write_atomically(_file(ctx, steps), pack(sampled))


@threads(1)
def finish(ctx) -> dict:
    student = _student(ctx)
    examination = _examination(ctx, student)
    conditions = examination.conditions(torch.arange(ctx.settings["samples"]))
    folder = ctx.inputs["baselines"]
    baselines = json.loads((folder / "baselines.json").read_text())
    features = load_file(folder / "features.safetensors")
    replicates = load_file(folder / "replicates.safetensors")
    teacher_images = load_file(folder / "teacher.safetensors")["images"]
    protocols = dict(baselines["protocols"])
    rows, comparisons, sampled = [], {}, {}
    for steps in _steps(ctx):
        sampled[steps] = unpack(_file(ctx, steps))
        subject = f"student, {counted(steps, 'step')}"
        drawn = Sampling(solver=student.sampler.kind, steps=steps, evaluations=steps)
        fd = examination.frechet(sampled[steps].seen, conditions)
        values = examination.measure(sampled[steps].seen, subject, conditions=conditions, teacher=teacher_images,
                                     images=sampled[steps].images, sampling=drawn, fd=fd)  # fmt: skip
        rows.append({"subject": subject, "steps": steps, "evaluations": steps, "sampling": drawn.model_dump(),
                     "values": store(values, protocols),
                     "classes": examination.per_class(sampled[steps].seen, conditions)})  # fmt: skip
        comparisons[str(steps)] = _compare(examination, steps, values, sampled[steps], conditions, baselines,
                                           features) | _equals(baselines, replicates, fd)  # fmt: skip
    document = {**baselines, "student": rows, "comparisons": comparisons, "protocols": protocols,
                "samples": ctx.settings["samples"], "notes": _notes(examination, student)}  # fmt: skip
    ctx.out.mkdir(parents=True, exist_ok=True)
    _write(ctx.out / "evaluation.json", document)
    _write(ctx.out / "metrics.json", headline(document))
    (ctx.out / "quality.csv").write_text(quality_table(document))
    shutil.rmtree(ctx.out / "curves", ignore_errors=True)
    (ctx.out / "curves").mkdir()
    for model in ["student", *dict.fromkeys(row["solver"] for row in document["rows"])]:
        (ctx.out / "curves" / f"{model}.csv").write_text(quality_table(document, model))
    save(_grid(ctx, examination, baselines, sampled, conditions, teacher_images), ctx.out / "grid.png")
    save_file(_report(ctx, student, examination, document, sampled, conditions, teacher_images), ctx.out / REPORT)
    first = rows[0]["values"]
    return {"samples": ctx.settings["samples"], "features": baselines["features"],
            "fd_infinite": first["fd_infinite"]["value"], "kid": first["kid"]["value"],
            "protocol": headline(document)["measured"]}  # fmt: skip


def cost(ctx) -> dict:
    """Latency and throughput of the student at each number of steps, its parameters, peak memory of the process."""
    student = _student(ctx)
    examination = _examination(ctx, student)
    figures = {}
    for steps in _steps(ctx):
        draw = _sampler(ctx, student, steps)

        def some(count: int, draw=draw) -> None:
            indices = torch.arange(count)
            draw(examination.noise(indices), examination.conditions(indices), indices).cpu()

        figures[str(steps)] = time_sampling(some, ctx.settings["batch"], seconds=0.5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in student.denoiser.parameters())
    return {"student": figures, "parameters": parameters, "peak_memory_mb": peak}


def headline(document: dict) -> dict:
    """metrics.json: plain numbers that `dvc metrics show` and the registry's floors read.

    `measured` is what the protocols of all values have in common, `protocols` the digest of each metric's own, and
    `protocol` that of the Fréchet distance; evaluation.json has them in full, with the interval and the number of
    samples of every value.
    """
    teacher = next(row for row in document["rows"] if row["teacher"])
    first = document["student"][0]
    against = document["comparisons"][str(first["steps"])]
    values, protocols = first["values"], document["protocols"]
    flat = {
        "measured": {name: protocols[values["fd_infinite"]["protocol"]][name] for name in MEASURED},
        "protocols": {name: values[name]["protocol"] for name in HEADLINE if name in values},
        "features": document["features"],
        "samples": document["samples"],
        "reference": document["reference"],
        "protocol": first["values"]["fd_infinite"]["protocol"],
        "student": {str(row["steps"]): _plain(row) for row in document["student"]},
        "teacher": {str(teacher["evaluations"]): _plain(teacher)},
        "solver": {steps: _best_solver(document, found) for steps, found in document["comparisons"].items()
                   if found["solver"]},
        "real": _plain(document["floor"]),
        "comparison": {steps: {name: found[name] for name in AGAINST if found[name] is not None}
                       for steps, found in document["comparisons"].items()},
        "floors": {"distance_ratio": against["fd_ratio"], "class_accuracy": _value(first, "class_accuracy"),
                   "recall": _value(first, "recall"), "copies": _value(first, "nearest_share")},
    }  # fmt: skip
    return flat


def quality_table(document: dict, model: str | None = None) -> str:
    """CSV: quality over network evaluations, one line per model and count; of one model, as DVC draws curves."""
    columns = ("fd_infinite", "kid", "mmd", "precision", "recall", "density", "coverage", "diversity",
               "class_accuracy", "agreement_rms")  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "evaluations", *columns])
    named = [("student", row) for row in document["student"]] + [(row["solver"], row) for row in document["rows"]]
    for name, row in named:
        if model not in (None, name):
            continue
        figures = [_value(row, column) for column in columns]
        writer.writerow([name, row["evaluations"], *("" if x is None else f"{x:.6g}" for x in figures)])
    return text.getvalue()


def _compare(examination: Examination, steps: int, values: dict, sampled: Sampled, conditions, baselines: dict,
             features: dict) -> dict:
    """The student against the best training-free solver at equal network evaluations (else the nearest lower count)
    and against the teacher."""
    protocols = baselines["protocols"]
    usable = [row for row in baselines["rows"] if row["values"]]
    known = {id(row): restore(row["values"], protocols, row["subject"], row["sampling"]) for row in usable}
    floor = restore(baselines["floor"]["values"], protocols, "real images")
    teacher = next(row for row in usable if row["teacher"])
    counts = [row["evaluations"] for row in usable if row["evaluations"] <= steps]
    found = {"solver": None, "evaluations": None, "fd_ratio": None, "kid_ratio": None, "kid_difference": None,
             "kid_difference_error": None}  # fmt: skip
    mine = values["fd_infinite"]
    if counts:
        rivals = [row for row in usable if row["evaluations"] == max(counts)]
        best = min(rivals, key=lambda row: known[id(row)]["fd_infinite"].value)
        rival = known[id(best)]
        others = features[f"{best['solver']}-{best['evaluations']}"].numpy()
        paired = examination.paired_kid(sampled.seen.features, others, conditions)
        found.update(
            solver=best["solver"], evaluations=best["evaluations"],
            fd_ratio=_ratio(mine, rival["fd_infinite"]), kid_ratio=_ratio(values["kid"], rival["kid"]),
            kid_difference=rounded(paired.value), kid_difference_error=rounded(paired.standard_error),
        )  # fmt: skip
    for name, label in (("fd_infinite", "fd"), ("kid", "kid")):
        found[f"{label}_excess"] = rounded(values[name].above_floor(floor[name]))
        found[f"{label}_excess_teacher"] = rounded(known[id(teacher)][name].above_floor(floor[name]))
    return found


def _equals(baselines: dict, replicates: dict, fd: Extrapolated) -> dict:
    """The training-free setting whose Fréchet distance the student's equals: for every solver the interpolated number
    of network evaluations with its 95 % set, and the solver that needs the fewest."""
    equals = {}
    for solver in dict.fromkeys(row["solver"] for row in baselines["rows"]):
        rows = [row for row in baselines["rows"] if row["solver"] == solver and row["values"]]
        rows.sort(key=lambda row: row["evaluations"])
        if not rows:
            continue
        counts = [row["evaluations"] for row in rows]
        found = equivalent_evaluations(
            counts, [row["values"]["fd_infinite"]["value"] for row in rows],
            [replicates[f"{solver}-{count}"].numpy() for count in counts], fd.infinite, fd.replicates,
        )  # fmt: skip
        bounds = (found.evaluations, found.low, found.high)
        point, low, high = (None if x is None else rounded(x) for x in bounds)
        equals[solver] = {"evaluations": point, "low": low, "high": high, "tried": [counts[0], counts[-1]]}
    reached = [name for name, one in equals.items() if one["evaluations"] is not None]
    best = min(reached, key=lambda name: equals[name]["evaluations"], default=None)
    return {"equals": equals, "equals_solver": best, "equals_evaluations": best and equals[best]["evaluations"]}


def _ratio(mine, rival) -> float | None:
    return rounded(mine.over(rival)) if rival.value > 0 else None


def _notes(examination: Examination, student) -> list[str]:
    notes = []
    if not examination.extractor.num_classes:
        notes.append("The images have no classes: distances are in principal components, class figures are left out.")
    elif not student.denoiser.num_classes:
        notes.append("The models take no class: class figures are left out.")
    if len(examination.test) < 10 * examination.extractor.dimensions:
        notes.append(f"Only {len(examination.test)} reference images for {examination.extractor.dimensions} features: "
                     f"distances are rough.")  # fmt: skip
    return notes


def _grid(ctx, examination: Examination, baselines: dict, sampled: dict[int, Sampled], conditions, teacher_images):
    """By class, from the same noise: student, the best training-free solver at its cost, teacher."""
    steps = _steps(ctx)[0]
    columns, pictures = ctx.settings["grid"], load_file(ctx.inputs["baselines"] / "pictures.safetensors")
    kept = pictures.pop("indices").tolist()
    by_row: dict[str, list[int]] = {}
    for index in kept:
        name = "" if conditions is None else str(int(conditions[index]))
        if conditions is not None and examination.test.class_names:
            name = examination.test.class_names[int(conditions[index])]
        by_row.setdefault(name, []).append(index)
    if conditions is None:
        rows = [kept[i : i + columns] for i in range(0, min(len(kept), 10 * columns), columns)]
        names = [""] * len(rows)
    else:
        names, rows = list(by_row), [indices[:columns] for indices in by_row.values()]
    width = min(len(row) for row in rows)
    rows = [row[:width] for row in rows]
    place = {index: position for position, index in enumerate(kept)}
    teacher = next(row for row in baselines["rows"] if row["teacher"])
    blocks = [Block("student", _take(sampled[steps].images, rows), counted(steps, "step"))]
    rivals = [row for row in baselines["rows"] if row["evaluations"] <= steps and row["values"]]
    if rivals:
        most = max(row["evaluations"] for row in rivals)
        best = min((row for row in rivals if row["evaluations"] == most), key=lambda row: _value(row, "fd_infinite"))
        images = pictures[f"{best['solver']}-{best['evaluations']}"]
        chosen = _take(images, [[place[index] for index in row] for row in rows])
        blocks.append(Block(solver_name(best["solver"]), chosen, counted(most, "evaluation")))
    blocks.append(Block("teacher", _take(teacher_images, rows),
                        f"{solver_name(teacher['solver'])}, {counted(teacher['evaluations'], 'evaluation')}"))
    return side_by_side(blocks, names)


def _report(ctx, student, examination: Examination, document: dict, sampled: dict[int, Sampled], conditions,
            teacher_images: torch.Tensor) -> dict[str, torch.Tensor]:  # fmt: skip
    """The pictures of the report: samples from the same noise, ways from noise, nearest training images; uint8."""
    folder = ctx.inputs["baselines"]
    kept, ways = (load_file(folder / f"{name}.safetensors") for name in ("pictures", "trajectories"))
    shown, followed = kept["indices"], ways["indices"]
    found = {"shown": shown, "followed": followed, "grid.teacher": teacher_images[shown], "way.teacher": ways["states"],
             "held_out.pixels": torch.from_numpy(examination.reference.nearest),
             "held_out.features": torch.from_numpy(examination.reference.nearest_features)}  # fmt: skip
    if conditions is not None:
        found |= {"shown.classes": conditions[shown], "followed.classes": conditions[followed]}
    for steps, one in sampled.items():
        name = f"student-{steps}"
        found[f"grid.{name}"] = one.images[shown]
        found[f"way.{name}"] = _way(ctx, student, steps, examination, followed, conditions, one.images)
        chosen = document["comparisons"][str(steps)]
        if chosen["solver"]:
            rival = f"{chosen['solver']}-{chosen['evaluations']}"
            found[f"grid.{rival}"] = kept[rival]
        found[f"near.{name}.pixels"] = torch.from_numpy(one.seen.nearest)
        found[f"near.{name}.features"] = torch.from_numpy(one.seen.nearest_features)
    first = sampled[_steps(ctx)[0]]
    held_out = torch.cat([to_bytes(examination.test.images(rows))
                          for rows in torch.arange(min(len(examination.test), NEAREST)).split(500)])
    for name, images, distances in (("samples", first.images, first.seen.nearest),
                                    ("held_out", held_out, examination.reference.nearest)):
        rows = torch.from_numpy(distances).argsort(stable=True)[:CLOSEST]
        numbers, far = examination.nearest_training(images[rows])
        found[f"closest.{name}"] = images[rows]
        found[f"closest.{name}.training"] = to_bytes(examination.train.images(torch.from_numpy(numbers)))
        found[f"closest.{name}.distance"] = torch.from_numpy(far)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _way(ctx, student, steps: int, examination: Examination, indices: torch.Tensor, conditions, images: torch.Tensor):
    """(n, steps + 1, C, H, W) uint8: the student's states before each evaluation, at unit variance, and its samples."""
    states = []

    def keep(x: torch.Tensor, t: float) -> None:
        scale = student.denoiser.process.scale(torch.tensor(t, dtype=torch.float64)).clamp(min=1)
        states.append(to_bytes(x.cpu() / float(scale)))

    wanted = None if conditions is None else conditions[indices].to(default_device())
    start = examination.noise(indices).to(default_device())
    student.sample(start, steps=steps, condition=wanted, seed=ctx.settings["seed"],
                   indices=indices, on_state=keep)  # fmt: skip
    return torch.stack([*states, images[indices]], dim=1)


def _take(images: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
    return torch.stack([images[row] for row in rows])


def _plain(row: dict) -> dict:
    return {name: row["values"][name]["value"] for name in HEADLINE if name in row["values"]}


def _value(row: dict, name: str) -> float | None:
    return row["values"][name]["value"] if name in row["values"] else None


def _best_solver(document: dict, found: dict) -> dict:
    chosen = found["solver"], found["evaluations"]
    row = next(row for row in document["rows"] if (row["solver"], row["evaluations"]) == chosen)
    return {"name": chosen[0], "evaluations": chosen[1], **_plain(row)}


def _write(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _steps(ctx) -> list[int]:
    return sorted(set(ctx.settings["steps"]))


def _file(ctx, steps: int) -> Path:
    return ctx.scratch / f"steps-{steps}.safetensors"


def _student(ctx):
    student = load_student(ctx.inputs["distill"])
    student.denoiser.to(default_device()).eval().requires_grad_(False)
    return student


def _sampler(ctx, student, steps: int):
    def draw(noise, classes, indices):
        classes = None if classes is None else classes.to(default_device())
        return student.sample(noise.to(default_device()), steps=steps, condition=classes, seed=ctx.settings["seed"],
                              indices=indices)  # fmt: skip

    return draw


def _examination(ctx, student) -> Examination:
    shards = ctx.inputs["shard"]
    return Examination(
        load_extractor(ctx.inputs["classifier"]), load_split(shards, "test"), load_split(shards, "train"),
        samples=ctx.settings["samples"], seed=ctx.settings["seed"], batch=ctx.settings["batch"],
        reference_digest=ctx.manifests["shard"].digest, num_classes=student.denoiser.num_classes,
        more=extractor_files.load(ctx), cache=extractor_files.cache(ctx),
    )  # fmt: skip
