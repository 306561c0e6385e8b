"""Tests of models.layers."""

import torch

from dptrain.models.layers import WSConv2d


def test_weights_are_standardised_and_so_blind_to_their_scale():
    layer = WSConv2d(3, 8, 3)
    rows, _ = WSConv2d.standardise(layer.weight.flatten(1))
    torch.testing.assert_close(rows.mean(1), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.square().sum(1), torch.ones(8), atol=1e-4, rtol=0)
    x = torch.randn(2, 3, 6, 6)
    before = layer(x) - layer.bias[:, None, None]
    with torch.no_grad():
        layer.weight.mul_(3).add_(7)
    torch.testing.assert_close(layer(x) - layer.bias[:, None, None], before, rtol=1e-3, atol=1e-3)
