"""Gaussian noise from a keystream: the same numbers on every device, for any stack width, after any restart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dptrain.sampling import Purpose, fill

BLOCK = 1 << 17
"""Pairs of numbers at a time: what the passes of the arithmetic go over must stay in the cache."""


class GaussianNoise:
    """Standard normals [K, P], one row a model, by Box and Muller (1958) on 32-bit uniforms.

    The radius comes from (|i| + 1/2) 2^-31 with i a signed 32-bit integer: small |i| are exact in float32, so the tail reaches
    6.6 standard deviations. Buffers are reused, since fresh ones cost more than the arithmetic.

    summed: each number is the sum of so many, divided by the root of their count. The values that one floating-point Gaussian can take have
    gaps that tell what was added to it (Mironov 2012); those of a sum of 2 k are too many to search (Holohan and Braghin 2021, section 4).
    """

    def __init__(self, models: int, size: int, summed: int = 1):
        half = (size + 1) // 2
        self._bits = np.empty((models, summed, 2, half), dtype=np.int32)
        self._normals = torch.empty(models, 2, half)
        self._others = torch.empty(models, 2, half) if summed > 1 else self._normals
        self._radius, self._angle = torch.empty(BLOCK), torch.empty(BLOCK)
        self._size = size

    def draw(self, keys: Sequence[bytes], step: int) -> Tensor:
        """The noise of one step, float32 [K, P] on the CPU; valid until the next draw."""
        models, summed, _, half = self._bits.shape
        for key, row in zip(keys, self._bits, strict=True):
            fill(key, Purpose.NOISE, step, row)
        bits = torch.from_numpy(self._bits)
        rows = max(1, BLOCK // half)
        for number in range(summed):
            out = self._others if number else self._normals
            for first in range(0, models, rows):
                for start in range(0, half, BLOCK):
                    at = (slice(first, first + rows), slice(start, start + BLOCK))
                    self._box_muller(bits[:, number, 0][at], bits[:, number, 1][at], out[:, 0][at], out[:, 1][at])
            if number:
                self._normals.add_(out)
        if summed > 1:
            self._normals.mul_(summed**-0.5)
        return self._normals.flatten(1)[:, : self._size]

    def _box_muller(self, one: Tensor, two: Tensor, cosines: Tensor, sines: Tensor) -> None:
        radius, angle = (buffer[: one.numel()].view(one.shape) for buffer in (self._radius, self._angle))
        radius.copy_(one).abs_().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle.copy_(two).mul_(math.pi * 2.0**-31)
        torch.cos(angle, out=cosines).mul_(radius)
        torch.sin(angle, out=sines).mul_(radius)
