"""Candidate against champion: both sampled afresh from common noise under one protocol, judged figure by figure.

The noise is keyed by the two models' weights, so neither training nor evaluation has seen it and asking again, also
under another version number or seed, gives the same answer: a refusal cannot be tried away.
"""

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewstep.util.errors import FewstepError, NonFinite
from tasks.config.schema import Gate
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.registry.model_registry import Registry, Version
from tasks.storage import dvc_cache

PURPOSE = "gate"


@dataclass(frozen=True)
class Outcome:
    """`reasons` against the candidate (none: at least as good, and better or cheaper), of which `kind` they are, the
    floors' figures measured afresh, and all that was measured as plain data."""

    reasons: list[str]
    kind: str
    floors: dict[str, float]
    figures: dict


def hold(registry: Registry, candidate: Version, champion: Version, rules: Gate, samples: int | None) -> Outcome:
    """Samples, measures and judges. `samples`: None takes as many as the candidate's evaluation.

    Raises:
        FewstepError: the two draw different things.
        DataDiffers, NotAvailable: bytes that are needed are not those recorded, or not here.
    """
    from fewstep.metrics.comparison.contrasts import Seen, contrasts
    from fewstep.metrics.comparison.noninferiority import judge
    from fewstep.util.torch_threads import threads

    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gate-", dir=registry.folder) as scratch, threads(1):
        both = [student(registry, version) for version in (candidate, champion)]
        if len({(one.denoiser.num_classes, tuple(one.denoiser.sample_shape)) for one in both}) != 1:
            raise FewstepError(f"{candidate.name} and {champion.name} draw different things (shape, number of classes)",
                               hint="models that cannot be compared belong under different names")  # fmt: skip
        examination, seed = _examination(registry, candidate, champion, both[0], samples, Path(scratch))
        asked = _asked(examination)
        seen, evaluations = [], []
        for version, one in zip((candidate, champion), both, strict=True):
            one.denoiser.evaluations = 0
            seen.append(_look(examination, one, version, seed))
            evaluations.append(round(one.denoiser.evaluations / -(-examination.samples // examination.batch)))
        values = examination.measure(seen[0], candidate.name, conditions=asked)
        reference = examination.reference
        labels = examination.test.labels.numpy() if asked is not None and examination.test.num_classes else None
        judgement = judge(
            contrasts(*(Seen(one.features, one.classes, one.nearest) for one in (*seen, reference)),
                      None if asked is None else asked.numpy(), labels, rules.margins.model_dump(),
                      tuple(examination.test.class_names)), rules.level, rules.power)  # fmt: skip
        parameters = [sum(p.numel() for p in one.denoiser.parameters()) for one in both]
        cost = {"evaluations": evaluations, "parameters": parameters}
        kind, reasons = _verdict(judgement, champion, cost, rules, partial(_latency, both, examination, seed))
    figures = {
        "champion": champion.number, "n": examination.samples, "seed": seed, "level": rules.level, "power": rules.power,
        "protocol": values["kid"].protocol.model_dump(), "cost": cost,
        "contrasts": [finding.to_dict() for finding in judgement.findings],
    }  # fmt: skip
    floors = {name: values[metric].value for name, metric in
              (("class_accuracy", "class_accuracy"), ("recall", "recall"), ("copies", "nearest_share"))
              if metric in values}  # fmt: skip
    return Outcome(reasons, kind, floors, figures)


def _verdict(judgement, champion: Version, cost: dict, rules: Gate, latency) -> tuple[str, list[str]]:
    """('', []) for a candidate that is better, or as good and cheaper; else what kind of refusal, and the reasons."""
    if not judgement.not_inferior:
        worse = judgement.having("worse", "unclear")
        return ("inferior" if worse else "power"), judgement.reasons()
    if judgement.superior:
        return "", []
    kept = 1 - rules.cheaper
    ratios = {name: mine / theirs for name, (mine, theirs) in cost.items()}
    if min(ratios.values()) <= kept:
        return "", []
    found = latency()
    cost["latency"] = {"ratio": found.value, "interval": list(found.interval), "n": found.n}
    if found.interval[1] <= kept:
        return "", []
    said = ", ".join(f"{ratio:.3g} times the {name}" for name, ratio in ratios.items())
    return "equal", [
        f"neither shown better than {champion.name} in any figure nor cheaper by {rules.cheaper:.0%}: {said}, "
        f"{found.value:.3g} times the latency (95 % interval {found.interval[0]:.3g} to {found.interval[1]:.3g}); "
        "more samples (register.samples) show smaller differences"]


def student(registry: Registry, version: Version):
    """The registered student, its bytes verified first; no code from the folder is run."""
    import torch

    from fewstep.students.export import load_student

    loaded = load_student(registry.pipeline(version))
    loaded.denoiser.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return loaded


def place(workspace, version: Version, stage: str, snapshot: Path, scratch: Path) -> Path:
    """The verified output of `stage` that `version` came from. Raises NotAvailable or DataDiffers."""
    from tasks.engine.plan import stat_table

    md5 = dvc_cache.locked_md5(snapshot / "dvc.lock", graph.stage(stage).output)
    folder, _ = dvc_cache.locate(workspace, stage, version.provenance.stages[stage].digest, md5, scratch)
    manifests.verify(folder, stat_table(workspace))
    return folder


def _examination(registry: Registry, candidate: Version, champion: Version, one, samples: int | None, scratch: Path):
    """The candidate's protocol, with noise that belongs to this contest alone."""
    from fewstep.data.images import load_split
    from fewstep.diffusion.randomness import derive
    from fewstep.metrics.evaluator import Examination
    from fewstep.metrics.extractors.extractor import load_extractor

    snapshot = registry.snapshot(candidate, scratch / "snapshot")
    shards, classifier = (place(registry.workspace, candidate, stage, snapshot, scratch)
                          for stage in ("shard", "classifier"))  # fmt: skip
    settings = json.loads((snapshot / "manifests" / "evaluate.json").read_text())["settings"]
    seed = derive(0, "/".join([PURPOSE, candidate.provenance.weights, champion.provenance.weights]))
    return Examination(
        load_extractor(classifier), load_split(shards, "test"), load_split(shards, "train"),
        samples=samples or settings["samples"], seed=seed, batch=settings["batch"],
        reference_digest=candidate.provenance.stages["shard"].digest, num_classes=one.denoiser.num_classes,
    ), seed  # fmt: skip


def _asked(examination):
    import torch

    return examination.conditions(torch.arange(examination.samples))


def _look(examination, one, version: Version, seed: int):
    from fewstep.metrics.sample_set import collect

    drawn = collect(examination, partial(_draw, one, seed))
    if drawn.finite < 1:
        raise NonFinite(f"{version.name}: {1 - drawn.finite:.1%} of its samples are NaN or infinite", role="student")
    return drawn.seen


def _draw(one, seed: int, noise, classes, indices):
    device = next(one.denoiser.parameters()).device
    classes = None if classes is None else classes.to(device)
    return one.sample(noise.to(device), condition=classes, seed=seed, indices=indices)


def _latency(both: list, examination, seed: int):
    """One image at a time, the two models in turn."""
    import torch

    from fewstep.metrics.speed_ratio import latency_ratio

    first = torch.arange(1)
    noise, classes = examination.noise(first), examination.conditions(first)
    return latency_ratio(*(lambda one=one: _draw(one, seed, noise, classes, first).cpu() for one in both))
