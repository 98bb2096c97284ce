"""Records: stacked tensors in safetensors, one tar member each, in shards that any tar program reads and ours verifies.

A *record* is a dictionary of tensors with one common leading dimension (the samples) plus a small JSON metadata object.
A *shard* is an uncompressed USTAR archive of records, byte-identical for identical content, beside an index with the
offset, size, number of samples and CRC-32 of every record and the SHA-256 of the whole file.
"""

from fewstep.data.records.loose_records import LooseRecords
from fewstep.data.records.record_codec import Record, decode_record, encode_record
from fewstep.data.records.record_source import RecordSource
from fewstep.data.records.sample_order import KeyedOrder
from fewstep.data.records.shard_check import verify_shard
from fewstep.data.records.shard_files import ShardReader, ShardWriter
from fewstep.data.records.shard_index import Entry, ShardIndex, index_path, read_index

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
]
