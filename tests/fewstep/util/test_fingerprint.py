"""The fingerprint names all that decides the bits and is plain JSON."""

import json

import torch

from fewstep.util.fingerprint import fingerprint


def test_what_decides_the_bits_on_a_cpu():
    found = fingerprint("cpu", threads=3)
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "cpu" and found["threads"] == 3 and found["torch"] == torch.__version__
    assert fingerprint("cpu") == {**found, "threads": torch.get_num_threads()}
    torch.use_deterministic_algorithms(True)
    try:
        assert fingerprint("cpu", 3) == {**found, "deterministic": True}
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_adds_its_name_libraries_and_switches(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    found = fingerprint("cuda:1")
    assert found["gpu"] == "NVIDIA X" and found["threads"] is None
    assert {"cuda", "cudnn", "cudnn_deterministic", "cudnn_benchmark", "tf32", "cudnn_tf32"} <= found.keys()
