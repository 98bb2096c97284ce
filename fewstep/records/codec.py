"""A record to bytes and back. The bytes depend on the content only, never on dictionary order."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from fewstep.records.files import canonical_json

# One key only: safetensors keeps metadata in a hash map, whose order changes from process to process.
_METADATA_KEY = "fewstep"


@dataclass(frozen=True)
class Record:
    """Decoded record: ``tensors`` (each (N, …)) and JSON ``metadata``."""

    tensors: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """N, the common leading dimension."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def count_samples(tensors: Mapping[str, Tensor]) -> int:
    """The common leading dimension of ``tensors``; ValueError if there is none."""
    counts = {name: tensor.shape[0] if tensor.ndim else None for name, tensor in tensors.items()}
    if len(set(counts.values())) != 1 or None in counts.values() or 0 in counts.values():
        raise ValueError(f"a record's tensors need one common, non-zero leading dimension; got {counts}")
    return next(iter(counts.values()))


def encode_record(tensors: Mapping[str, Tensor], metadata: Mapping | None = None) -> bytes:
    """Encode as safetensors, with ``metadata`` as canonical JSON in its header.

    Args:
        tensors: name → (N, …) on any device; stored contiguous, in their own dtype.
        metadata: JSON object without NaN or infinity.

    Raises:
        ValueError: no common leading dimension, or metadata that is not JSON.
    """
    count_samples(tensors)
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    return safetensors.save(plain, metadata={_METADATA_KEY: canonical_json(dict(metadata or {}))})


def decode_record(data: bytes) -> Record:
    """Decode what :func:`encode_record` wrote; the tensors own their memory and may be changed.

    Raises:
        ValueError: not a safetensors record.
    """
    data = bytes(data) if not isinstance(data, bytes) else data
    try:
        tensors = safetensors.load(data)
        length = int.from_bytes(data[:8], "little")
        text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_METADATA_KEY, "{}")
        record = Record({name: tensors[name] for name in sorted(tensors)}, json.loads(text))
        count_samples(record.tensors)
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"not a record: {error}") from error
    return record

