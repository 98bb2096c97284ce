"""The network of every family is one graph for torch.compile: a set that is long enough is compiled by default."""

import pytest
import torch

from tests.fewstep.families.recipe_matrix import NAMES, teacher_of


@pytest.mark.parametrize("kind", NAMES)
def test_a_call_is_captured_whole_and_gives_the_same(kind):
    own = teacher_of(kind).eval()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2, *own.sample_shape, generator=source)
    rows = torch.arange(2) if own.num_classes else None
    plain, graphs = own.network, []

    def noted(module, inputs):
        graphs.append(module)
        return module

    torch.compiler.reset()
    with torch.inference_mode():
        wanted = own.x0(x, 0.5, rows)
        own.network = torch.compile(plain, backend=noted, dynamic=False, fullgraph=True)
        found = own.x0(x, 0.5, rows)
    own.network = plain
    assert len(graphs) == 1 and torch.equal(found, wanted)
