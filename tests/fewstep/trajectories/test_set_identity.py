"""The digest of the code that makes a set covers all that decides its bytes, and nothing that does not."""

from fewstep.trajectories.set_identity import code_digest
from fewstep.util.source_code import APART, SourceTree


def test_every_module_that_making_a_set_loads_is_in_the_digest():
    tree = SourceTree()
    code = tree.code(["fewstep.trajectories.generate"], apart=APART)
    assert code.digest == code_digest()
    for name in ("diffusion/denoiser", "diffusion/sampling", "diffusion/randomness", "trajectories/set_writer",
                 "data/records/shard_files", "trajectories/keyed_labels"):  # fmt: skip
        assert f"fewstep/{name}.py" in code.files
    assert not any(path.startswith(("fewstep/training/", "fewstep/objectives/", "fewstep/metrics/"))
                   for path in code.files)  # fmt: skip
