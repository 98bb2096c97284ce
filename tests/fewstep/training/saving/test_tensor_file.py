"""The file of tensors is what safetensors would write, and its hash is that of its bytes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.training.saving.tensor_file import write_tensors
from fewstep.util.hashing import sha256_file


def tensors() -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return {
        "plain": torch.randn(3, 5, generator=source), "number": torch.tensor(3.0), "none": torch.zeros(0, 5),
        "half": torch.randn(3, generator=source).bfloat16(), "labels": torch.arange(4), "flag": torch.tensor([True]),
        "turned": torch.randn(4, 6, generator=source).t(), "rows": torch.randn(8, 2, generator=source)[1::2],
        "last": torch.randn(2, 3, 4, 4, generator=source).to(memory_format=torch.channels_last),
        "trained": torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),
    }  # fmt: skip


def test_every_kind_of_tensor_comes_back_and_the_hash_is_the_file_s(tmp_path):
    given, path = tensors(), tmp_path / "file"
    assert write_tensors(path, given) == sha256_file(path)
    found = load_file(path)
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name


@pytest.mark.parametrize("names", [("plain", "turned", "number"), ("half",), ("labels", "none")])
def test_the_bytes_are_those_of_safetensors_itself(names, tmp_path):
    given = {name: tensors()[name] for name in names}
    write_tensors(tmp_path / "ours", given)
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
