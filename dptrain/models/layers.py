"""Layers that torch does not have."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WSConv2d(nn.Conv2d):
    """A convolution whose weights are standardised over each output's inputs: zero mean, norm 1
    (Qiao et al. 2019; De et al. 2022, section 3), which lets residual networks do without
    normalising batches.
    """

    EPSILON = 1e-6

    @staticmethod
    def standardise(weight: Float[Tensor, "... F"]) -> tuple[Tensor, Tensor]:
        """weight [..., F] -> its standardised rows, and what they were multiplied by [..., 1]."""
        centred = weight - weight.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().sum(-1, keepdim=True) + WSConv2d.EPSILON)
        return centred * scale, scale

    def forward(self, input: Float[Tensor, "N ..."]) -> Tensor:
        result: Tensor = self._conv_forward(
            input, self.standardise(self.weight.flatten(1))[0].view_as(self.weight), self.bias
        )
        return result


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions behind group norms, added to their input (He et al. 2016,
    pre-activation).
    """

    def __init__(self, inside: int, outside: int, stride: int, groups: int):
        super().__init__()
        self.inside, self.outside, self.stride, self.groups = inside, outside, stride, groups
        self.norm1 = nn.GroupNorm(min(groups, inside), inside)
        self.conv1 = WSConv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(min(groups, outside), outside)
        self.conv2 = WSConv2d(outside, outside, 3, 1, 1, bias=False)
        self.skip = (
            WSConv2d(inside, outside, 1, stride, bias=False)
            if stride > 1 or inside != outside
            else None
        )

    def forward(self, input: Float[Tensor, "N ..."]) -> Tensor:
        active = torch.relu(self.norm1(input))
        straight = input if self.skip is None else self.skip(active)
        result: Tensor = straight + self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return result


class OnFeatures(nn.Module):
    """A trained head on features that nothing is learnt for: they are computed once, before
    training.
    """

    def __init__(self, features: nn.Module, head: nn.Module):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, input: Float[Tensor, "N ..."]) -> Tensor:
        result: Tensor = self.head(self.features(input))
        return result


class Scattering(nn.Module):
    """Wavelet scattering coefficients of images (Oyallon and Mallat 2015), [n, C, H, W] -> [n, 81
    C, H/4, W/4] at scale 2.
    """

    def __init__(self, height: int, width: int):
        super().__init__()
        # This module, not kymatio.torch: that one needs functions which SciPy 1.17 dropped.
        from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

        self.transform = ScatteringTorch2D(J=2, shape=(height, width))

    def forward(self, input: Float[Tensor, "N ..."]) -> Tensor:
        result: Tensor = self.transform(input.contiguous()).flatten(1, 2)
        return result
