"""Shards: bytes that repeat, that other tools read, and that no damage passes."""

import errno
import io
import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fewstep.data.records import (
    ShardReader,
    ShardWriter,
    index_path,
    read_index,
    shard_files,
    tarball,
    verify_shard,
)
from fewstep.util.errors import CorruptData, DiskFull
from tests import children


def write_shard(path, records) -> None:
    with ShardWriter(path) as writer:
        for name, tensors, metadata in records:
            writer.add(name, tensors, metadata)


def records(count=5, rows=7):
    for number in range(count):
        x = torch.arange(rows * 12, dtype=torch.float32).reshape(rows, 1, 3, 4) + 1000 * number
        yield f"{number:08d}", {"x": x, "index": torch.arange(rows) + rows * number}, {"times": [1.0, 0.1], "n": number}


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "00000.tar", records())
    return tmp_path / "00000.tar"


def test_round_trip(shard):
    with ShardReader(shard) as reader:
        assert len(reader) == 5
        for got, (_, tensors, metadata) in zip(reader, records(), strict=True):
            assert got.metadata == metadata and got.samples == 7
            assert got.tensors.keys() == tensors.keys()
            assert all(torch.equal(got.tensors[name], tensors[name]) for name in tensors)
    assert verify_shard(shard) == []
    assert sorted(os.listdir(shard.parent)) == ["00000.tar", "00000.tar.index.json"]


def write_named(path: str, names: str) -> None:
    tensors, metadata = {n: torch.ones(3, 2) for n in names}, dict.fromkeys(names, 1)
    write_shard(path, [("a", tensors, metadata), ("b", tensors, metadata)])


def test_bytes_depend_on_content_only(tmp_path):
    write_named(tmp_path / "one" / "s.tar", "xyz")
    children.result(write_named, str(tmp_path / "two" / "s.tar"), "zxy")
    for name in ("s.tar", "s.tar.index.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_gnu_tar_and_python_tarfile_read_it(shard, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(["tar", "-xvf", shard, "-C", out], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == [f"{n:08d}.safetensors" for n in range(5)]
    assert torch.equal(safetensors.torch.load_file(out / "00000003.safetensors")["index"], torch.arange(7) + 21)
    with tarfile.open(shard) as archive:
        assert all(member.isreg() and member.mtime == 0 and member.uid == 0 for member in archive)


def test_stock_webdataset_reads_it(shard):
    import webdataset

    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{n:08d}" for n in range(5)]
    for sample, (_, tensors, _) in zip(samples, records(), strict=True):
        assert torch.equal(safetensors.torch.load(sample["safetensors"])["x"], tensors["x"])


def read_all(path: Path):
    with ShardReader(path) as reader:
        return [(record.tensors["x"], record.tensors["index"], record.metadata) for record in reader]


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, two, strict=True)
    )


def assert_harmless(path: Path, truth) -> None:
    """Reading ``path`` gives the true samples or CorruptData naming the file; verify reports the damage."""
    try:
        got = read_all(path)
    except CorruptData as error:
        assert str(path) in str(error)
    else:
        assert same(got, truth)
    problems = verify_shard(path)
    assert problems and all(str(path) in line for line in problems)


def test_a_thousand_bit_flips(shard):
    truth, good, chance = read_all(shard), bytearray(shard.read_bytes()), random.Random(0)
    for _ in range(1000):
        bad, bit = bytearray(good), chance.randrange(8 * len(good))
        bad[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(bad)
        assert_harmless(shard, truth)


def test_every_padding_byte_is_checked(shard):
    good, entries = shard.read_bytes(), read_index(index_path(shard)).records
    places = [e.offset + e.bytes + i for e in entries for i in range(tarball.padding(e.bytes))]
    places += list(range(len(good) - len(tarball.END), len(good), 97))
    assert len(places) > 700
    for place in places[::7]:
        bad = bytearray(good)
        bad[place] = 1
        shard.write_bytes(bad)
        assert verify_shard(shard) != []


def test_a_thousand_truncations(shard):
    truth, good, chance = read_all(shard), shard.read_bytes(), random.Random(1)
    for number in range(1000):
        cut = chance.randrange(len(good)) if number % 2 else 512 * chance.randrange(len(good) // 512)
        shard.write_bytes(good[:cut])
        assert_harmless(shard, truth)


def test_truncated_while_open(shard):
    with ShardReader(shard) as reader:
        os.truncate(shard, read_index(index_path(shard)).records[2].offset + 40)
        reader.read(1)
        with pytest.raises(CorruptData, match="00000002"):
            reader.read(2)


def test_index_bit_flips(shard):
    truth, index, chance = read_all(shard), index_path(shard), random.Random(2)
    good = index.read_bytes()
    for _ in range(300):
        bad, bit = bytearray(good), chance.randrange(8 * len(good))
        bad[bit // 8] ^= 1 << bit % 8
        index.write_bytes(bad)
        try:
            assert same(read_all(shard), truth)
        except CorruptData as error:
            assert str(shard) in str(error)


def test_swapped_or_appended_content_is_reported(shard, tmp_path):
    write_shard(tmp_path / "other.tar", records(count=4))
    good = shard.read_bytes()
    shard.write_bytes(good + bytes(512))
    assert verify_shard(shard)
    shard.write_bytes((tmp_path / "other.tar").read_bytes())
    assert verify_shard(shard)
    with pytest.raises(CorruptData):
        read_all(shard)


def with_index(folder: Path, archive: bytes, sizes: list[tuple[str, int, int, int]]) -> Path:
    """A hostile pair: any archive beside an index whose own checksums are right."""
    from hashlib import sha256

    from fewstep.util.hashing import canonical_json

    body = {
        "format": "fewstep-shard-1",
        "bytes": len(archive),
        "sha256": sha256(archive).hexdigest(),
        "samples": sum(size[3] for size in sizes),
        "records": [
            {"name": n, "offset": o, "bytes": b, "samples": s, "crc32": __import__("zlib").crc32(archive[o : o + b])}
            for n, o, b, s in sizes
        ],
    }
    path = folder / "bad.tar"
    path.write_bytes(archive)
    check = sha256(canonical_json(body).encode()).hexdigest()
    index_path(path).write_text(json.dumps({**body, "check": check}))
    return path


def member(name: str, payload: bytes, kind=tarfile.REGTYPE, link="", form=tarfile.USTAR_FORMAT, pax=None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(payload)
        info.pax_headers = pax or {}
        archive.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        member("00000000.safetensors", b"", tarfile.SYMTYPE, "/etc/passwd"),
        member("00000000.safetensors", b"", tarfile.LNKTYPE, "../../x"),
        member("00000000.safetensors", b"", tarfile.CHRTYPE),
        member("/etc/x.safetensors", b"payload"),
        member("../x.safetensors", b"payload"),
        member("00000000.pkl", b"payload"),
        member("00000000.safetensors", b"payload", form=tarfile.PAX_FORMAT, pax={"GNU.sparse.realsize": "99999999"}),
        member("00000000.safetensors", b"payload", form=tarfile.PAX_FORMAT, pax={"path": "/etc/x"}),
        member("n" * 200, b"payload", form=tarfile.GNU_FORMAT),
    ],
    ids=["symlink", "hardlink", "device", "absolute", "parent", "pickle", "sparse", "pax-path", "longname"],
)
def test_hostile_archives_are_refused(tmp_path, archive):
    size = len(archive) - 512 - 1024
    path = with_index(tmp_path, archive, [("00000000", 512, size, 1)])
    with pytest.raises(CorruptData), ShardReader(path) as reader:
        reader.read(0)
    assert verify_shard(path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", "a.b", ".x", "x" * 81, "a\nb"])
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError), ShardWriter(tmp_path / "a.tar") as writer:
        writer.add_bytes(name, b"x", 1)
    assert not list(tmp_path.iterdir())
    path = with_index(tmp_path, member("a.safetensors", b"payload"), [(name, 512, 7, 1)])
    with pytest.raises(CorruptData):
        ShardReader(path)


def test_oversize_and_overlapping_records_are_refused(tmp_path):
    archive = member("a.safetensors", b"payload")
    for sizes in ([("a", 512, 1 << 40, 1)], [("a", 0, 7, 1)], [("a", 512, 7, 1), ("a", 512, 7, 1)], [("a", 512, 7, 0)]):
        with pytest.raises(CorruptData):
            ShardReader(with_index(tmp_path, archive, sizes))


def test_a_pickle_in_a_record_is_never_loaded(tmp_path):
    import pickle

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.add_bytes("a", pickle.dumps(Payload()), 1)
    with pytest.raises(CorruptData, match="not a record"), ShardReader(tmp_path / "a.tar") as reader:
        reader.read(0)
    assert not (tmp_path / "executed").exists()


def test_missing_files_are_named(tmp_path, shard):
    index_path(shard).unlink()
    with pytest.raises(CorruptData, match="index.json"):
        ShardReader(shard)
    write_shard(shard, records())
    shard.unlink()
    with pytest.raises(CorruptData, match="missing"):
        ShardReader(shard)
    assert verify_shard(shard)


def test_an_error_while_writing_keeps_the_old_shard(shard):
    before = shard.read_bytes()

    def broken():
        yield from records(2)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_shard(shard, broken())
    assert shard.read_bytes() == before and verify_shard(shard) == []
    assert sorted(os.listdir(shard.parent)) == ["00000.tar", "00000.tar.index.json"]


def write_large(path: str) -> None:
    write_shard(path, [("a", {"x": torch.zeros(100, 100)}, None)])


def test_full_disk(tmp_path):
    """The kernel's own limit on file size stands in for a full disk: same call fails, in the same place."""
    write_shard(tmp_path / "00000.tar", records())
    said = children.result(write_large, str(tmp_path / "00001.tar"), largest_file=20_000)
    assert said.startswith("DiskFull: disk full while writing") and "00001.tar" in said
    assert sorted(os.listdir(tmp_path)) == ["00000.tar", "00000.tar.index.json"]
    assert verify_shard(tmp_path / "00000.tar") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_space_left(tmp_path, monkeypatch):
    os.symlink("/dev/full", tmp_path / "full")
    monkeypatch.setattr(shard_files, "temporary_for", lambda path: path.with_name("full"))
    with pytest.raises(DiskFull) as caught:
        write_shard(tmp_path / "a.tar", records())
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
