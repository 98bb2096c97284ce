"""The examination that everything is measured by, from the outputs of the stages shard and classifier."""

from collections.abc import Sequence
from pathlib import Path

from fewstep.data.images import load_split
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.extractors.extractor import Extractor, load_extractor
from tasks.data import extractor_files
from tasks.evaluation.settings import MeasureSettings
from tasks.stages.base import Context


def examination(shards: Path, classifier: Path, *, samples: int, seed: int, batch: int, digest: str, num_classes: int,
                more: Sequence[Extractor] = (), cache: Path | None = None) -> Examination:  # fmt: skip
    """An examination in the features of the pipeline's own classifier.

    Args:
        shards: output of the stage shard, with `digest` its tree digest.
        classifier: output of the stage classifier.
        num_classes: of the models that are examined.
        more, cache: as `Examination` has them.

    Raises:
        SettingsError: a split has too few images.
    """
    return Examination(
        load_extractor(classifier), load_split(shards, "test"), load_split(shards, "train"), samples=samples, seed=seed,
        batch=batch, reference_digest=digest, num_classes=num_classes, more=more, cache=cache,
    )  # fmt: skip


def stage_examination(context: Context[MeasureSettings], num_classes: int) -> Examination:
    """The examination of a stage that has `shard` and `classifier` among its inputs."""
    settings, workspace = context.settings, context.workspace
    return examination(
        context.inputs["shard"], context.inputs["classifier"], samples=settings.samples, seed=settings.seed,
        batch=settings.batch, digest=context.manifests["shard"].digest, num_classes=num_classes,
        more=extractor_files.load(workspace, settings.extractors), cache=workspace.reference,
    )  # fmt: skip
