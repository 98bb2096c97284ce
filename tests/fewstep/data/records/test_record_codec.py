"""Records to bytes and back, against safetensors' own loader and against damaged and hostile bytes."""

import json
import random

import pytest
import torch
from safetensors.torch import load, save

from fewstep.data.records import decode_record, encode_record

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def example(seed: int) -> dict[str, torch.Tensor]:
    chance = random.Random(seed)
    samples = chance.randint(1, 5)
    tensors = {}
    for number in range(chance.randint(1, 6)):
        shape = (samples, *(chance.randint(1, 3) for _ in range(chance.randint(0, 3))))
        values = torch.arange(torch.Size(shape).numel()).reshape(shape) % 100
        tensors[f"{chance.choice('abc')}{number}"] = values.to(chance.choice(DTYPES))
    return tensors


@pytest.mark.parametrize("seed", range(20))
def test_both_loaders_agree(seed):
    tensors = example(seed)
    data = encode_record(tensors, {"seed": seed, "text": "ü ≥ 1"})
    ours, theirs = decode_record(data), load(data)
    assert ours.metadata == {"seed": seed, "text": "ü ≥ 1"}
    assert list(ours.tensors) == sorted(tensors) and ours.tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        for found in (ours.tensors[name], theirs[name]):
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    assert decode_record(save(tensors)).metadata == {}


def test_the_result_may_be_changed():
    record = decode_record(encode_record({"x": torch.zeros(2, 3)}))
    record.tensors["x"].add_(1)
    assert float(record.tensors["x"].sum()) == 6


def test_masks_stay_masks():
    mask = torch.tensor([[True, False], [False, True]])
    found = decode_record(encode_record({"mask": mask})).tensors["mask"]
    assert found.dtype == torch.bool and torch.equal(found, mask)


def test_what_cannot_be_stored_is_refused():
    for tensors in ({}, {"x": torch.zeros(())}, {"x": torch.zeros(0, 2)}, {"x": torch.zeros(2), "y": torch.zeros(3)}):
        with pytest.raises(ValueError, match="leading dimension"):
            encode_record(tensors)
    with pytest.raises(ValueError, match="complex64"):
        encode_record({"x": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(ValueError):
        encode_record({"x": torch.zeros(2)}, {"loss": float("nan")})


def test_no_damage_reads_outside_the_record_or_ends_in_another_error():
    good, chance = encode_record(example(3), {"a": 1}), random.Random(0)
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        bad = bytes(bad[: chance.choice([len(bad), chance.randrange(len(bad))])])
        try:
            record = decode_record(bad)
        except ValueError:
            continue
        assert sum(tensor.nbytes for tensor in record.tensors.values()) <= len(bad)


def with_header(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (1 << 60).to_bytes(8, "little") + bytes(64),
        with_header([], bytes(8)),
        with_header({}, b""),
        with_header({"x": entry()}, bytes(7)),
        with_header({"x": entry()}, bytes(9)),
        with_header({"x": entry(shape=(3,))}, bytes(8)),
        with_header({"x": entry(shape=(-2, -1))}, bytes(8)),
        with_header({"x": entry(shape=(2.0,))}, bytes(8)),
        with_header({"x": entry(shape=(1 << 62, 1 << 62))}, bytes(8)),
        with_header({"x": entry(offsets=(8, 16))}, bytes(16)),
        with_header({"x": entry(), "y": entry()}, bytes(8)),
        with_header({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)),
        with_header({"x": entry(offsets=(0,))}, bytes(8)),
        with_header({"x": entry(dtype="PICKLE")}, bytes(8)),
        with_header({"x": entry(dtype="BOOL", shape=(8,))}, bytes([0, 1, 2, 0, 1, 0, 1, 0])),
        with_header({"x": "y"}, bytes(8)),
        with_header({"x": entry(), "__metadata__": {"fewstep": "{"}}, bytes(8)),
        with_header({"x": entry(), "__metadata__": 1}, bytes(8)),
    ],
)
def test_hostile_bytes(data):
    with pytest.raises(ValueError, match="not a record"):
        decode_record(data)
    with pytest.raises(ValueError, match="not a record"):
        decode_record(torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8))
