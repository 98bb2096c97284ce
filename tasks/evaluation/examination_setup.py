"""The examination that everything is measured by, from the outputs of the stages shard, reference and
classifier."""

from collections.abc import Sequence
from pathlib import Path

from fewstep.data.images import load_split
from fewstep.families.codec import Codec
from fewstep.families.encoded_set import EncodedSet
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.extractors.extractor import Extractor, load_extractor
from fewstep.util.device import default_device
from fewstep.util.errors import SettingsError
from tasks.data import extractor_files
from tasks.data.encoded_inputs import encoded_set, stage_codec
from tasks.data.reference_folder import reference_stage
from tasks.evaluation.settings import MeasureSettings
from tasks.stages.base import Context


def examination(shards: Path, classifier: Path, *, samples: int, seed: int, batch: int, digest: str, num_classes: int,
                more: Sequence[Extractor] = (), cache: Path | None = None,
                encoded: EncodedSet | None = None, codec: Codec | None = None) -> Examination:  # fmt: skip
    """An examination in the features of the pipeline's own classifier.

    Args:
        shards: output of the stage shard, or of reference where it drew images, with `digest` its tree digest.
        classifier: output of the stage classifier.
        num_classes: of the models that are examined.
        more, cache: as `Examination` has them.
        encoded, codec: of the models, where their states are no images or their conditions no classes.

    Raises:
        SettingsError: a split has too few images, or the models draw something else than images of their shape.
    """
    test = load_split(shards, "test")
    if codec is not None and tuple(codec.sample_shape) != tuple(test.shape):
        raise SettingsError(f"the models draw samples of shape {tuple(codec.sample_shape)}, the reference images have "
                            f"{tuple(test.shape)} (channels, height, width)",
                            hint="give images of that shape, or prompts alone")  # fmt: skip
    return Examination(
        load_extractor(classifier, default_device()), test, load_split(shards, "train"), samples=samples, seed=seed,
        batch=batch, reference_digest=digest, num_classes=num_classes, more=more, cache=cache,
        shape=None if encoded is None or encoded.family is None else encoded.family.state,
        prompts=None if encoded is None else encoded.prompt_table(), decode=None if codec is None else codec.decode,
    )  # fmt: skip


def stage_examination(context: Context[MeasureSettings], num_classes: int) -> Examination:
    """The examination of a stage that has `shard`, `reference`, `encode` and `classifier` among its inputs."""
    settings, workspace, source = context.settings, context.workspace, reference_stage(context)
    return examination(
        context.inputs[source], context.inputs["classifier"], samples=settings.samples, seed=settings.seed,
        batch=settings.batch, digest=context.manifests[source].digest, num_classes=num_classes,
        more=extractor_files.load(workspace, settings.extractors), cache=workspace.reference,
        encoded=context.once(encoded_set), codec=context.once(stage_codec),
    )  # fmt: skip
