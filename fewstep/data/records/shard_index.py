"""The index beside a shard: where each record lies and what its bytes must be."""

from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.data.records import tarball
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData

FORMAT = "fewstep-shard-1"
_LARGEST_INDEX = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One record: ``name``, its payload's ``offset`` in the shard, ``bytes`` and ``crc32``, and its ``samples``."""

    name: str
    offset: int
    bytes: int
    samples: int
    crc32: int


@dataclass(frozen=True)
class ShardIndex:
    """All records of a shard in file order, the shard's size in bytes and its SHA-256."""

    records: tuple[Entry, ...]
    bytes: int
    sha256: str

    @property
    def samples(self) -> int:
        """Samples in the shard."""
        return sum(entry.samples for entry in self.records)

    def to_dict(self) -> dict:
        """The index as JSON values."""
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "samples": self.samples,
            "records": [asdict(entry) for entry in self.records],
        }


def index_path(shard: Path | str) -> Path:
    """``00000.tar`` → ``00000.tar.index.json``."""
    shard = Path(shard)
    return shard.with_name(shard.name + ".index.json")


def write_index(path: Path, index: ShardIndex) -> None:
    """Write ``index`` atomically, with a SHA-256 of itself. Raises DiskFull."""
    write_checked(path, FORMAT, index.to_dict())


def read_index(path: Path | str) -> ShardIndex:
    """Read and check an index.

    Raises:
        CorruptData: the file is missing, not an index, damaged, or describes a shard that cannot exist (names that are
            no record names, sizes out of range, records that overlap or leave gaps).
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise CorruptData(f"{path}: larger than any index ({_LARGEST_INDEX} bytes)")
        content = read_checked(path, FORMAT)
        entries = tuple(Entry(**record) for record in content["records"])
        index = ShardIndex(entries, content["bytes"], content["sha256"])
        consistent = {"format": FORMAT, **index.to_dict()} == content
    except FileNotFoundError as error:
        raise CorruptData(f"{path}: the index is missing") from error
    except (KeyError, TypeError) as error:
        raise CorruptData(f"{path}: damaged index ({error})") from error
    if not consistent:
        raise CorruptData(f"{path}: damaged index (its sums are wrong)")
    _check_layout(path, index)
    return index


def _check_layout(path: Path, index: ShardIndex) -> None:
    position, names = 0, set()
    for entry in index.records:
        numbers = (entry.offset, entry.bytes, entry.samples, entry.crc32)
        try:
            tarball.check_name(entry.name)
        except ValueError as error:
            raise CorruptData(f"{path}: {error}") from error
        if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers) or entry.samples < 1:
            raise CorruptData(f"{path}: record {entry.name}: sizes must be integers ≥ 1")
        if not 0 < entry.bytes <= tarball.LARGEST_RECORD:
            raise CorruptData(f"{path}: record {entry.name}: unreasonable size of {entry.bytes} bytes")
        if entry.name in names:
            raise CorruptData(f"{path}: record {entry.name} is there twice")
        if entry.offset != position + tarball.BLOCK:
            raise CorruptData(f"{path}: record {entry.name} is not where the record before it ends")
        names.add(entry.name)
        position = entry.offset + entry.bytes + tarball.padding(entry.bytes)
    if index.bytes != position + len(tarball.END):
        raise CorruptData(f"{path}: sizes do not add up to {index.bytes} bytes")
