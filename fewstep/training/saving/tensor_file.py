"""Tensors in a safetensors file that is hashed while it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes the file, and returns the SHA-256 of its bytes.

    What lies on another device, or not in a row, is brought to host memory one tensor at a time. Not atomic.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))     # so that each lies aligned
    header, end = {}, 0
    for name in order:
        value = tensors[name]
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def put(part: bytes | memoryview) -> None:
            file.write(part)
            digest.update(part)

        put(len(text).to_bytes(8, "little") + text)
        for name in order:
            put(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
