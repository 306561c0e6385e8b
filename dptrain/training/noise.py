"""Gaussian noise from a keystream: the same numbers on every device, for any stack width, after any
restart.

A noisy sum is rounded to a grid before anything reads it (Mechanism.spacing), since the numbers
that a sampler can give form a lattice of its own: where gaps show, the last digits of a released
number tell what was added to the noise (Mironov 2012). docs/noise.md counts what is left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dptrain.core.streams import Purpose, fill

BLOCK = 1 << 17
"""Pairs of numbers at a time: what the passes of the arithmetic go over must stay in the cache."""
TAIL = 1 << 10
"""Integers below it stand for radii beyond 5.4, between which gaps are wide: these few get 64 more
bits each.
"""
FAR = math.sqrt(-2 * math.log((TAIL - 0.5) * 2.0**-31))
"""A radius between those of TAIL and of the integer below it."""


class Noise(ABC):
    """Standard normals [K, P], one row a model, by Box and Muller (1958) on 32-bit uniforms.

    The radius comes from |i + v| 2^-31 with i a signed 32-bit integer and v uniform in [-1/2, 1/2):
    of 64 bits (of which double precision leaves 43 and more) where |i| < TAIL, and 0 elsewhere,
    where it would move the radius by less than float32 resolves. Buffers are reused, since fresh
    ones cost more than the arithmetic.
    """

    _bits: np.ndarray
    _normals: Tensor

    @abstractmethod
    def draw(self, keys: Sequence[bytes], step: int) -> Tensor:
        """The noise of one step, float32 [K, P]; valid until the next draw."""

    def _refine(self, key: bytes, step: int, row: int, columns: list[int]) -> None:
        """Draw the pairs of the tail again, those in some columns of a row, with 64 more bits for
        each radius.
        """
        bits = np.empty(len(columns), dtype=np.uint64)
        fill(key, Purpose.TAIL, step, bits)
        pairs = []
        for column, drawn in zip(columns, bits.tolist(), strict=True):
            radius_bits, angle_bits = self._bits[row, :, column].tolist()
            radius = math.sqrt(
                -2 * math.log(max(abs(radius_bits + drawn / 2.0**64 - 0.5) * 2.0**-31, 1e-30))
            )
            angle = angle_bits * (math.pi * 2.0**-31)
            pairs.append((math.cos(angle) * radius, math.sin(angle) * radius))
        there = self._normals.device
        self._normals[row, :, torch.tensor(columns, device=there)] = torch.tensor(pairs).T.to(there)


class GaussianNoise(Noise):
    """Made on the CPU."""

    def __init__(self, models: int, size: int):
        half = (size + 1) // 2
        self._bits = np.empty((models, 2, half), dtype=np.int32)
        self._normals = torch.empty(models, 2, half)
        self._radius, self._angle = torch.empty(BLOCK), torch.empty(BLOCK)
        self._size = size

    def draw(self, keys: Sequence[bytes], step: int) -> Tensor:
        """The noise of one step, float32 [K, P] on the CPU; valid until the next draw."""
        models, _, half = self._bits.shape
        for key, row in zip(keys, self._bits, strict=True):
            fill(key, Purpose.NOISE, step, row)
        bits, out = torch.from_numpy(self._bits), self._normals
        rows = max(1, BLOCK // half)
        far: dict[int, list[int]] = {}
        for first in range(0, models, rows):
            for start in range(0, half, BLOCK):
                at = (slice(first, first + rows), slice(start, start + BLOCK))
                for model, column in self._box_muller(
                    bits[:, 0][at], bits[:, 1][at], out[:, 0][at], out[:, 1][at]
                ):
                    far.setdefault(first + model, []).append(start + column)
        for model, columns in far.items():
            self._refine(keys[model], step, model, sorted(columns))
        return out.flatten(1)[:, : self._size]

    def _box_muller(
        self,
        radius_bits: Shaped[Tensor, "r c"],
        angle_bits: Shaped[Tensor, "r c"],
        cosines: Shaped[Tensor, "r c"],
        sines: Shaped[Tensor, "r c"],
    ) -> list[tuple[int, int]]:
        """Write the pairs of some integers, and return the places [row, column] of those that are
        to be drawn again.
        """
        radius, angle = (
            buffer[: radius_bits.numel()].view(radius_bits.shape)
            for buffer in (self._radius, self._angle)
        )
        radius.copy_(radius_bits).abs_().mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle.copy_(angle_bits).mul_(math.pi * 2.0**-31)
        torch.cos(angle, out=cosines).mul_(radius)
        torch.sin(angle, out=sines).mul_(radius)
        beyond = []
        # One in 500,000: the largest again and again is faster than a list of them.
        while float(radius.amax()) > FAR:
            place = int(radius.argmax())
            beyond.append(divmod(place, radius.shape[1]))
            radius[beyond[-1]] = 0
        return beyond


class DeviceNoise(Noise):
    """The same numbers, but for rounding, made on a GPU: the keystream's bits go there."""

    def __init__(self, models: int, size: int, device: torch.device):
        half = (size + 1) // 2
        pinned = device.type == "cuda"
        self._host = torch.empty((models, 2, half), dtype=torch.int32, pin_memory=pinned)
        self._copied = torch.cuda.Event() if pinned else None
        self._bits = self._host.numpy()
        self._normals = torch.empty((models, 2, half), device=device)
        self._size = size

    def draw(self, keys: Sequence[bytes], step: int) -> Tensor:
        """The noise of one step, float32 [K, P] on the device; valid until the next draw."""
        if self._copied is not None:
            # The bits of the step before may still be on their way from the same memory.
            self._copied.synchronize()
        for key, row in zip(keys, self._bits, strict=True):
            fill(key, Purpose.NOISE, step, row)
        bits = self._host.to(self._normals.device, non_blocking=self._copied is not None)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._normals.device))
        radius = bits[:, 0].float().abs_().mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle = bits[:, 1].float().mul_(math.pi * 2.0**-31)
        torch.mul(torch.cos(angle), radius, out=self._normals[:, 0])
        torch.mul(torch.sin(angle), radius, out=self._normals[:, 1])
        for model, key in enumerate(keys):
            shifted = (self._bits[model, 0] + np.int32(TAIL - 1)).view(np.uint32)
            columns = np.flatnonzero(shifted < 2 * TAIL - 1).tolist()  # |i| < TAIL
            if columns:
                self._refine(key, step, model, columns)
        return self._normals.flatten(1)[:, : self._size]


def gaussian_noise(models: int, size: int, device: torch.device) -> Noise:
    """The source of a device's noise."""
    if device.type == "cuda":
        return DeviceNoise(models, size, device)
    return GaussianNoise(models, size)  # copies to other devices are not known to be in order
