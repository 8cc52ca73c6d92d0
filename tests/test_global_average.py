from __future__ import annotations

import pytest
import torch

from stream_ann.nets.layers import global_average


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_global_average_hands_back_a_gradient_laid_out_as_the_features(layout):
    torch.manual_seed(0)
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    wanted = torch.autograd.grad(features.mean((2, 3)).square().sum(), features)[0]
    found = torch.autograd.grad(global_average(features).square().sum(), features)[0]
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(global_average(features), features.mean((2, 3)))
    with torch.no_grad():
        assert global_average(features).grad_fn is None
