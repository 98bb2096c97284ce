"""Documents with a checksum of themselves."""

import pytest

from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData


def test_there_and_back(tmp_path):
    write_checked(tmp_path / "a.json", "form-1", {"x": [1, 2]})
    assert read_checked(tmp_path / "a.json", "form-1") == {"format": "form-1", "x": [1, 2]}
    with pytest.raises(CorruptData, match="a.json: format 'form-1', expected 'form-2'"):
        read_checked(tmp_path / "a.json", "form-2")
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "b.json", "form-1")


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_checked(path, "form-1", {"x": 7})
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:    # a flipped space or line end changes nothing
            assert read_checked(path, "form-1") == {"format": "form-1", "x": 7}
        except CorruptData as error:
            assert str(path) in str(error)
