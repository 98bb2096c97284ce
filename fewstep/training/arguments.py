"""The arguments of `distill`, checked before any work: what cannot be used is a SettingsError that says what can."""

from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.training.step.batches import DataSource, TensorData
from fewstep.util.device import default_device
from fewstep.util.errors import SettingsError

KINDS = "a tensor (N, ...), a tuple (samples, labels) of tensors, or a DataSource"


def check_images(images: float) -> None:
    """Raises SettingsError for less than one training sample."""
    if not images >= 1:
        raise SettingsError(f"images: expected 1 or more training samples, got {images}")


def check_teacher(teacher: Any) -> None:
    """Raises SettingsError for what is no Denoiser."""
    if not isinstance(teacher, Denoiser):
        raise SettingsError(
            f"teacher: expected a Denoiser, got {type(teacher).__name__}",
            hint="give a GaussianMixture, or load_teacher(folder)",
        )


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device of this name, or the GPU if there is one; SettingsError for one that is unknown or not here."""
    if device is None:
        device = default_device()
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(
            f"device {str(device)!r} cannot be used here: {reason}",
            hint="give 'cpu' or a GPU of this machine, or leave the device out",
        ) from error


def data_source(data: Any) -> DataSource | None:
    """`data` as a source of samples; None stays None.

    Raises SettingsError for what is none of `KINDS`, samples that are not finite, labels that are not one integer each.
    """
    if isinstance(data, Tensor):
        return _in_memory(data, None)
    if isinstance(data, tuple) and len(data) == 2:
        return _in_memory(*data)
    if data is not None and not callable(getattr(data, "batch", None)):
        raise SettingsError(
            f"data: expected {KINDS}, got {_kind(data)}", hint="make tensors of arrays and lists with torch.as_tensor"
        )
    return data


def _in_memory(x: Any, y: Any) -> TensorData:
    if not isinstance(x, Tensor) or not (y is None or isinstance(y, Tensor)):
        raise SettingsError(
            f"data: expected tensors of samples and labels, got {_kind(x)} and {_kind(y)}",
            hint="make them with torch.as_tensor",
        )
    if x.ndim < 2:
        raise SettingsError(f"data: expected samples (N, ...), got shape {tuple(x.shape)}")
    if y is not None:
        if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
            raise SettingsError(f"data: labels must be integers, got {y.dtype}", hint="convert them: labels.long()")
        if y.shape != (len(x),):
            raise SettingsError(f"data: {len(x)} samples need labels ({len(x)},), got shape {tuple(y.shape)}")
    return TensorData(x, y)


def check_fits(source: DataSource, teacher: Denoiser) -> None:
    """Raises SettingsError for samples of another shape than the teacher's, or labels that it does not know.

    Only labels in memory are looked at; those that another source has anyway may go unread.
    """
    found, expected = sample_shape(source), tuple(teacher.sample_shape)
    if found != expected:
        raise SettingsError(f"data: samples have shape {found}, the teacher's have {expected}")
    if isinstance(source, TensorData) and source.y is not None:
        _check_labels(source.y, teacher)


def _check_labels(labels: Tensor, teacher: Denoiser) -> None:
    if not teacher.num_classes:
        raise SettingsError("data: there are labels, but the teacher has no classes", hint="give the samples alone")
    try:
        teacher.require_condition(labels, len(labels))
    except SettingsError as error:
        raise SettingsError(f"data: labels that the teacher does not take: {error}") from error


def sample_shape(source: DataSource) -> tuple[int, ...]:
    """Shape of one sample, by the first one."""
    return tuple(source.batch(0, 0, 1)[0].shape[1:])


def num_classes(source: DataSource) -> int:
    """How many classes the labels are of, 0 without labels; SettingsError for labels of an unknown number."""
    if source.batch(0, 0, 1)[1] is None:
        return 0
    count = getattr(source, "num_classes", None)
    if not isinstance(count, int) or count < 1:
        raise SettingsError(
            "data: there are labels, but of how many classes is not known", hint="give the source `num_classes`"
        )
    if isinstance(source, TensorData) and int(source.y.min()) < 0:
        raise SettingsError(f"data: labels start at 0, got {int(source.y.min())}", hint="give the samples alone")
    return count


def _kind(value: Any) -> str:
    return "a tuple of " + str(len(value)) if isinstance(value, tuple) else type(value).__name__
