"""Where computation runs, and with which arithmetic."""

import json
import subprocess
import sys

GPU = """
import json, torch
torch.cuda.is_available, torch.version.cuda = lambda: True, "13.0"     # as a build for GPUs says where there is one
from fewstep.util.device import default_device
assert default_device().type == "cuda"
print(json.dumps([torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
                  torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
                  torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]))
"""


def test_a_gpu_computes_the_same_bits_again_and_float32_without_tf32():
    done = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True, check=True)
    deterministic, warns, cudnn, benchmark, *tf32 = json.loads(done.stdout)
    assert (deterministic, warns, cudnn) == (True, True, True) and not benchmark and tf32 == [False, False]
