"""What torch does not offer in public still does what it is used for; a change of torch fails here first."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ubgen_pipeline.inference.library_internals import (
    has_onednn_products,
    packed_linear,
    packed_linear_gelu,
    packed_linear_times,
    packed_weight,
    undo_compile,
)


def test_packed_products_are_those_of_plain_layers():
    if not torch.backends.mkldnn.is_available():
        assert not has_onednn_products()
        pytest.skip("this torch has no oneDNN")
    # where there is oneDNN, the operators must be there too: without them generation falls back in silence
    assert has_onednn_products()
    torch.manual_seed(0)
    x, weight, bias, factor = torch.randn(2, 5, 24), torch.randn(48, 24), torch.randn(48), torch.randn(2, 5, 48)
    packed = packed_weight(weight)
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(packed_linear(x, packed, bias), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_linear(x, packed, None), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_linear_gelu(x, packed, bias), F.gelu(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_linear_times(x, factor, packed, bias), expected * factor, rtol=1e-5, atol=1e-5)


def test_a_module_runs_as_before_once_compiling_is_undone():
    module = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    expected = module(x)
    calls = []
    # a backend that counts: no compiler is needed to see whether the module goes through it
    module.compile(backend=lambda graph, inputs: calls.append(1) or graph.forward)
    assert torch.equal(module(x), expected) and calls
    undo_compile(module)
    calls.clear()
    assert torch.equal(module(x), expected) and not calls
    # nothing of the compiled code is left, so that compiling again would begin anew
    module.compile(backend=lambda graph, inputs: calls.append(1) or graph.forward)
    module(x)
    assert calls
    undo_compile(module)
