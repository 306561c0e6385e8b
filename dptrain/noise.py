"""Gaussian noise from a keystream: the same numbers on every device, for any stack width, after any restart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dptrain.sampling import Purpose, fill


class GaussianNoise:
    """Standard normals [K, P], one row a model, by Box and Muller (1958) on 32-bit uniforms.

    The radius comes from (|i| + 1/2) 2^-31 with i a signed 32-bit integer: small |i| are exact in float32, so the tail reaches
    6.6 standard deviations. Buffers are reused, since fresh ones cost more than the arithmetic.
    """

    def __init__(self, models: int, size: int):
        half = (size + 1) // 2
        self._bits = np.empty((models, 2, half), dtype=np.int32)
        self._radius, self._angle = torch.empty(models, half), torch.empty(models, half)
        self._normals = torch.empty(models, 2, half)
        self._size = size

    def draw(self, keys: Sequence[bytes], step: int) -> Tensor:
        """The noise of one step, float32 [K, P] on the CPU; valid until the next draw."""
        for key, row in zip(keys, self._bits, strict=True):
            fill(key, Purpose.NOISE, step, row)
        bits = torch.from_numpy(self._bits)
        self._radius.copy_(bits[:, 0]).abs_().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        self._angle.copy_(bits[:, 1]).mul_(math.pi * 2.0**-31)
        torch.cos(self._angle, out=self._normals[:, 0]).mul_(self._radius)
        torch.sin(self._angle, out=self._normals[:, 1]).mul_(self._radius)
        return self._normals.flatten(1)[:, : self._size]
