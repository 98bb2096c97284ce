"""Canonical JSON and hashes."""

import hashlib

import pytest

from fewstep.util import hashing


def test_equal_values_give_equal_text_whatever_the_order_of_their_keys():
    assert hashing.canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert hashing.sha256_json({"a": 1, "b": 2}) == hashing.sha256_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        hashing.canonical_json(float("nan"))


def test_files_bytes_and_values_have_the_same_hash(tmp_path):
    (tmp_path / "a").write_text('{"a":1}')
    expected = hashlib.sha256(b'{"a":1}').hexdigest()
    assert hashing.sha256_file(tmp_path / "a") == hashing.sha256_json({"a": 1}) == expected
    assert hashing.sha256_bytes(b'{"a":1}') == expected
