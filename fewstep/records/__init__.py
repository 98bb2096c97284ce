"""Records: stacked tensors in safetensors, one tar member each, in shards that any tar program reads and ours verifies.

A *record* is a dictionary of tensors with one common leading dimension (the samples) plus a small JSON metadata object.
A *shard* is an uncompressed USTAR archive of records, byte-identical for identical content, beside an index with the
offset, size, number of samples and CRC-32 of every record and the SHA-256 of the whole file.
"""

from fewstep.records.codec import Record, decode_record, encode_record
from fewstep.records.files import write_atomically
from fewstep.records.index import Entry, ShardIndex, index_path, read_index
from fewstep.records.loose import LooseRecords
from fewstep.records.order import KeyedOrder
from fewstep.records.shard import ShardReader, ShardWriter, write_shard
from fewstep.records.source import RecordSource
from fewstep.records.verify import verify_shard

__all__ = [
    "Entry",
    "KeyedOrder",
    "LooseRecords",
    "Record",
    "RecordSource",
    "ShardIndex",
    "ShardReader",
    "ShardWriter",
    "decode_record",
    "encode_record",
    "index_path",
    "read_index",
    "verify_shard",
    "write_atomically",
    "write_shard",
]
