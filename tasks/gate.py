"""Promotion from end to end: what the decision needs, the decision, the move, the record."""

import json
import tempfile
from functools import partial
from pathlib import Path

from fewstep.errors import FewstepError
from tasks import graph, outputs, promotion
from tasks import manifest as manifests
from tasks.promotion import Decision
from tasks.registry import CHAMPION, Registry, Version

GATE_SEED = "gate"


def promote(registry: Registry, version: Version, *, policy: str, floors: dict, samples: int | None = None,
            alias: str = CHAMPION, why: str = "", who: str | None = None, record: bool = True) -> Decision:  # fmt: skip
    """Decides under `policy` whether `version` becomes `alias`, moves it if so, and returns the decision.

    With `record` a refusal is written down as well. When another promotion wins in between, this one decides again
    against the new champion.
    """
    promotion.complete(registry, version.model)
    while True:
        number = registry.aliases(version.model).get(alias)
        champion = None if number is None else registry.get(version.model, number)
        reasons, figures = promotion.decide(
            version, champion, policy, floors, results=version.json("results").get("floors", {}),
            lineage=partial(unverified, registry, version),
            compare=partial(compare, registry, version, champion, samples),
        )  # fmt: skip
        decision = Decision(version.model, version.number, alias, policy, not reasons, tuple(reasons), number, figures)
        if reasons:
            if record:
                promotion.record_refusal(registry, decision, who)
            return decision
        try:
            promotion.move(registry, version, number, alias=alias, why=why, who=who, figures=figures)
        except promotion.AliasMoved:
            continue
        return decision


def unverified(registry: Registry, version: Version) -> list[str]:
    """What in the version's lineage does not verify, one line each."""
    from tasks.lineage import problems, trace

    return [f"its lineage does not verify: {line}" for line in problems(trace(registry, version))]


def compare(registry: Registry, candidate: Version, champion: Version, samples: int | None) -> dict:
    """Paired unbiased KID of candidate minus champion: same noise, same classes, the candidate's protocol.

    Both are sampled afresh with the steps they were made for, from noise that neither training nor evaluation has
    seen. Returns difference, standard_error, n, the seed, the steps of both and what defines the protocol.
    """
    import torch

    from fewstep.images import load_split
    from fewstep.metrics.examination import Examination
    from fewstep.metrics.features import load_extractor
    from fewstep.metrics.samples import collect
    from fewstep.randomness import derive

    with tempfile.TemporaryDirectory(prefix="gate-", dir=_folder(registry)) as scratch:
        snapshot = registry.snapshot(candidate, Path(scratch) / "snapshot")
        places = {stage: place(registry.workspace, candidate, stage, snapshot, Path(scratch))
                  for stage in ("shard", "classifier")}  # fmt: skip
        settings = json.loads((snapshot / "manifests" / "evaluate.json").read_text())["settings"]
        students = [student(registry, version) for version in (candidate, champion)]
        if len({(one.denoiser.num_classes, tuple(one.denoiser.sample_shape)) for one in students}) != 1:
            raise FewstepError(f"{candidate.name} and {champion.name} draw different things (shape, number of classes)",
                               hint="models that cannot be compared belong under different names")  # fmt: skip
        seed = derive(settings["seed"], GATE_SEED, candidate.number, champion.number)
        shards = places["shard"]
        examination = Examination(
            load_extractor(places["classifier"]), load_split(shards, "test"), load_split(shards, "train"),
            samples=samples or settings["samples"], seed=seed, batch=settings["batch"],
            reference_digest=candidate.inputs["shard"]["digest"], num_classes=students[0].denoiser.num_classes,
        )  # fmt: skip
        features = []
        for version, one in zip((candidate, champion), students, strict=True):
            drawn = collect(examination, partial(_draw, one, seed))
            if drawn.finite < 1:
                raise FewstepError(f"{version.name}: {1 - drawn.finite:.1%} of its samples are NaN or infinite")
            features.append(drawn.seen.features)
        asked = examination.conditions(torch.arange(examination.samples))
        found = examination.paired_kid(*features, asked)
        return {
            "metric": "unbiased KID, candidate minus champion, paired", "difference": found.value,
            "standard_error": found.standard_error, "n": examination.samples, "seed": seed, "champion": champion.number,
            "steps": [one.sampler.steps for one in students], "features": examination.extractor.name,
            "features_digest": examination.extractor.digest, "reference_digest": examination.reference_digest,
        }  # fmt: skip


def student(registry: Registry, version: Version):
    """The registered student, its bytes verified first; no code from the folder is run."""
    import torch

    from fewstep.export import load_student

    loaded = load_student(registry.pipeline(version))
    loaded.denoiser.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return loaded


def place(workspace, version: Version, stage: str, snapshot: Path, scratch: Path) -> Path:
    """The verified output of `stage` that `version` came from. Raises NotAvailable or CorruptData."""
    from tasks.plan import stat_table

    md5 = outputs.locked_md5(snapshot / "dvc.lock", graph.stage(stage).output)
    folder, _ = outputs.locate(workspace, stage, version.inputs[stage]["digest"], md5, scratch)
    manifests.verify(folder, stat_table(workspace))
    return folder


def _draw(one, seed: int, noise, classes, indices):
    device = next(one.denoiser.parameters()).device
    classes = None if classes is None else classes.to(device)
    return one.sample(noise.to(device), condition=classes, seed=seed, indices=indices)


def _folder(registry: Registry) -> Path:
    registry.folder.mkdir(parents=True, exist_ok=True)
    return registry.folder
