"""Candidate against champion: both sampled afresh from common noise under one protocol, judged figure by figure.

The noise is keyed by the two models' weights, so neither training nor evaluation has seen it and asking again, also
under another version number or seed, gives the same answer: a refusal cannot be tried away.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from fewstep.diffusion.randomness import derive
from fewstep.families.encoded_set import EncodedSet
from fewstep.metrics.comparison.contrasts import contrasts
from fewstep.metrics.comparison.noninferiority import UNCLEAR, WORSE, Judgement, judge
from fewstep.metrics.comparison.prompt_contrasts import prompt_contrasts
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.extractor_loading import WITH_TEXTS
from fewstep.metrics.observed import Observed
from fewstep.metrics.sample_set import collect
from fewstep.metrics.speed_ratio import Ratio, latency_ratio
from fewstep.students.student import Student
from fewstep.util.config import parse
from fewstep.util.errors import FewstepError, NonFinite
from fewstep.util.torch_threads import threads
from tasks.config.schema import Gate
from tasks.data import extractor_files
from tasks.data.encoded_inputs import codec_of
from tasks.data.reference_folder import is_drawn
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import stat_table
from tasks.evaluation.examination_setup import examination
from tasks.evaluation.headline import ALIGNMENT, RETRIEVAL
from tasks.evaluation.samplers import ready_student, student_draw
from tasks.evaluation.settings import EvaluateSettings
from tasks.registry.gate.contest_figures import ContestFigures, ContrastFigures, CostFigures, LatencyFigures
from tasks.registry.model_registry import Registry, Version
from tasks.storage.dvc import dvc_cache
from tasks.storage.workspace import Workspace

PURPOSE = "gate"
FLOORS = {"class_accuracy": ("class_accuracy",), "recall": ("recall",), "copies": ("nearest_share",),
          "retrieval": RETRIEVAL, "text_alignment": ALIGNMENT}  # fmt: skip
"""Figures of `register.floors` that are measured afresh, and the metrics that they are, of which the first counts."""
Kind = Literal["", "inferior", "power", "equal"]
"""Why the champion stays: the candidate is worse, too little was measured to tell, or both are alike."""


@dataclass(frozen=True)
class Outcome:
    """The result of the test.

    Attributes:
        reasons: against the candidate; none where it is at least as good, and better or cheaper.
        kind: of these reasons.
        floors: the figures of `register.floors`, measured afresh.
        figures: JSON of `ContestFigures`.
    """

    reasons: list[str]
    kind: Kind = ""
    floors: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def hold(registry: Registry, candidate: Version, champion: Version, rules: Gate, samples: int | None) -> Outcome:
    """Samples, measures and judges.

    Args:
        samples: of each model; None takes as many as the candidate's evaluation.

    Raises:
        FewstepError: the two draw different things.
        NonFinite: samples of one are NaN or infinite.
        DataDiffers, NotAvailable: bytes that are needed are not those recorded, or not here.
    """
    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gate-", dir=registry.folder) as scratch, threads(1):
        snapshot = registry.snapshot(candidate, Path(scratch) / "snapshot")
        encoded = _encoded(registry, candidate, snapshot, Path(scratch))
        students = [ready_student(registry.pipeline(version), encoded) for version in (candidate, champion)]
        if len({(one.denoiser.num_classes, tuple(one.denoiser.sample_shape)) for one in students}) != 1:
            raise FewstepError(f"{candidate.name} and {champion.name} draw different things (shape, number of classes)",
                               hint="models that cannot be compared belong under different names")  # fmt: skip
        test = _examination(registry, candidate, champion, encoded, students[0].denoiser.num_classes, samples, snapshot,
                            Path(scratch))  # fmt: skip
        seen, evaluations = zip(*(_examined(test, one, version)
                                  for one, version in zip(students, (candidate, champion), strict=True)), strict=True)
        values = test.measure(seen[0], candidate.name, conditions=test.plan.classes)
        judgement = _judged(test, seen, rules)
        cost = CostFigures(evaluations=evaluations, parameters=tuple(
            sum(parameter.numel() for parameter in one.denoiser.parameters()) for one in students))  # fmt: skip
        kind, reasons, cost = verdict(judgement, champion, cost, rules, partial(_latency, students, test))
    figures = ContestFigures(
        champion=champion.number, n=test.plan.samples, seed=test.plan.seed, level=rules.level, power=rules.power,
        protocol=values["kid"].protocol, cost=cost,
        contrasts=tuple(ContrastFigures.of(finding) for finding in judgement.findings))  # fmt: skip
    floors = {name: next(values[metric].value for metric in metrics if metric in values)
              for name, metrics in FLOORS.items() if any(metric in values for metric in metrics)}  # fmt: skip
    return Outcome(reasons, kind, floors, figures.model_dump(mode="json"))


def verdict(judgement: Judgement, champion: Version, cost: CostFigures, rules: Gate,
            latency: Callable[[], Ratio]) -> tuple[Kind, list[str], CostFigures]:  # fmt: skip
    """('', []) for a candidate that is better, or as good and cheaper; else why it is refused, and the reasons.

    `latency` is measured where nothing else decides, and returned with the cost.
    """
    if not judgement.not_inferior:
        worse = judgement.having(WORSE, UNCLEAR)
        return ("inferior" if worse else "power"), judgement.reasons(), cost
    if judgement.superior:
        return "", [], cost
    most = 1 - rules.cheaper
    ratios = {"evaluations": cost.evaluations[0] / cost.evaluations[1],
              "parameters": cost.parameters[0] / cost.parameters[1]}  # fmt: skip
    if min(ratios.values()) <= most:
        return "", [], cost
    took = latency()
    cost = cost.model_copy(update={"latency": LatencyFigures(ratio=took.value, interval=took.interval, n=took.n)})
    if took.interval[1] <= most:
        return "", [], cost
    told = ", ".join(f"{ratio:.3g} times the {name}" for name, ratio in ratios.items())
    return "equal", [
        f"neither shown better than {champion.name} in any figure nor cheaper by {rules.cheaper:.0%}: {told}, "
        f"{took.value:.3g} times the latency (95 % interval {took.interval[0]:.3g} to {took.interval[1]:.3g}); "
        "more samples (register.samples) show smaller differences"], cost


def _encoded(registry: Registry, version: Version, snapshot: Path, scratch: Path) -> EncodedSet:
    """The conditions that the version was made with, its bytes verified first."""
    return EncodedSet(stage_output(registry.workspace, version, "encode", snapshot, scratch))


def stage_output(workspace: Workspace, version: Version, stage: str, snapshot: Path, scratch: Path) -> Path:
    """The verified output of `stage` that `version` came from. Raises NotAvailable or DataDiffers."""
    md5 = dvc_cache.locked_md5(snapshot / "dvc.lock", graph.stage(stage).output)
    folder, _ = dvc_cache.locate(workspace, stage, version.provenance.stages[stage].digest, md5, scratch)
    manifests.verify(folder, stat_table(workspace))
    return folder


def _examination(registry: Registry, candidate: Version, champion: Version, encoded: EncodedSet, num_classes: int,
                 samples: int | None, snapshot: Path, scratch: Path) -> Examination:  # fmt: skip
    """The candidate's protocol, with noise that belongs to this contest alone."""
    source = _reference_stage(registry.workspace, candidate, snapshot, scratch)
    shards, classifier = (stage_output(registry.workspace, candidate, stage, snapshot, scratch)
                          for stage in (source, "classifier"))  # fmt: skip
    path = snapshot / "manifests" / "evaluate.json"
    evaluated = parse(EvaluateSettings, manifests.read(path).settings, path.name)
    seed = derive(0, "/".join([PURPOSE, candidate.tags["fewstep.weights"], champion.tags["fewstep.weights"]]))
    codec = None if encoded.family is None else codec_of(registry.pipeline(candidate), encoded)
    return examination(shards, classifier, samples=samples or evaluated.samples, seed=seed, batch=evaluated.batch,
                       digest=candidate.provenance.stages[source].digest, num_classes=num_classes, encoded=encoded,
                       codec=codec, more=_with_texts(registry, evaluated, encoded))  # fmt: skip


def _reference_stage(workspace: Workspace, version: Version, snapshot: Path, scratch: Path) -> str:
    """The stage whose images the version was compared with. Versions of older code have real images only."""
    if "reference" not in version.provenance.stages:
        return "shard"
    return "reference" if is_drawn(stage_output(workspace, version, "reference", snapshot, scratch)) else "shard"


def _with_texts(registry: Registry, evaluated: EvaluateSettings, encoded: EncodedSet) -> list[Extractor]:
    """CLIP and CLAP, where models are asked for prompts and the evaluation compared by them."""
    given = evaluated.extractors
    pairs = [pair for pair in WITH_TEXTS.items() if encoded.prompts and given.keys() >= set(pair)]
    return extractor_files.load(registry.workspace, {name: given[name] for pair in pairs for name in pair})


def _examined(test: Examination, model: Student, version: Version) -> tuple[Observed, int]:
    """What is observed in the model's samples, and its network evaluations per sample."""
    model.denoiser.evaluations = 0
    drawn = collect(test, student_draw(model, test.plan.seed))
    if drawn.finite < 1:
        raise NonFinite(f"{version.name}: {1 - drawn.finite:.1%} of its samples are NaN or infinite", role="student")
    return drawn.seen, round(model.denoiser.evaluations / math.ceil(test.plan.samples / test.plan.batch))


def _judged(test: Examination, seen: tuple[Observed, Observed], rules: Gate) -> Judgement:
    """Candidate against champion in every gated figure."""
    if test.prompts is not None:
        found = prompt_contrasts(*seen, test.images.observed, test.asked(seen), rules.margins.model_dump())
        return judge(found, rules.level, rules.power)
    asked, real = test.plan.classes, test.images.test
    labels = real.labels.numpy() if asked is not None and real.num_classes else None
    return judge(
        contrasts(*seen, test.images.observed, None if asked is None else asked.numpy(), labels,
                  rules.margins.model_dump(), tuple(real.class_names)), rules.level, rules.power)  # fmt: skip


def _latency(students: list[Student], test: Examination) -> Ratio:
    """One image at a time, the two models in turn."""
    first = torch.arange(1)
    noise, classes = test.plan.noise(first), test.plan.conditions(first)
    draws = (student_draw(model, test.plan.seed) for model in students)
    return latency_ratio(*(lambda draw=draw: draw(noise, classes, first).cpu() for draw in draws))
