"""Products of float32 that are products of float32, and which library multiplies on a processor:
the one that torch prefers, or oneDNN.

With `fp32_precision = "bf16"` torch gives float32 products to oneDNN. On some processors that is
twice as fast as MKL and as accurate; on others it really rounds to bfloat16, and then the sum of
clipped gradients could exceed its clipping norm. So its accuracy is measured in every process
before it is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import torch

ACCURACY = 1e-6
"""Of an entry of a product, relative to the norms of its row and its column: what float32 sums
reach, 4,000 times below what rounding to bfloat16 costs; clipped sums may exceed C by 1e-5 of it.
"""
SHAPES = ((1, 64, 32, 16), (16, 512, 784, 128), (2, 33, 2001, 7), (4, 784, 512, 128))
"""Of products [batch, rows, inner, columns] that are tried."""


class Products(StrEnum):
    DEFAULT = "default"
    ONEDNN = "onednn"


def available() -> bool:
    """Whether this torch and this processor know the switch; AVX2 alone has no kernels for it."""
    capability = torch.backends.cpu.get_cpu_capability()
    return _switch() is not None and capability not in ("DEFAULT", "NO AVX", "AVX2")


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """No TF32 within the block, which torch takes for convolutions on CUDA unless it is told not
    to: with 10 bits of a gradient left, the norm that is clipped is not that of what is summed.
    """
    backends: tuple[Any, ...] = (
        getattr(torch.backends.cudnn, "conv", None),
        torch.backends.cuda.matmul,
    )
    kinds = [kind for kind in backends if hasattr(kind, "fp32_precision")]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextlib.contextmanager
def using(products: Products) -> Iterator[None]:
    """Multiply so within the block, where that is accurate here, and as before after it."""
    if products == Products.DEFAULT or not accurate():
        yield
        return
    with _switched():
        yield


@functools.cache
def accurate() -> bool:
    """Whether oneDNN's products are float32 products on this processor."""
    if _switch() is None:
        return False
    with _switched():
        return all(_error(shape) <= ACCURACY for shape in SHAPES)


def _error(shape: tuple[int, int, int, int]) -> float:
    """The largest of products of random matrices, both ways round."""
    batch, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(batch, rows, inner, generator=generator)
    b = torch.randn(batch, inner, columns, generator=generator)
    norms = a.norm(dim=2, keepdim=True) * b.norm(dim=1, keepdim=True)
    exact = a.double() @ b.double()
    tried = torch.bmm(a, b), torch.stack([one @ other for one, other in zip(a, b, strict=True)])
    back = torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
    return max(float(((each.double() - exact).abs() / norms).max()) for each in (*tried, back))


@contextlib.contextmanager
def _switched() -> Iterator[None]:
    switch = _switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _switch() -> Any:
    """torch's own, or None where it has none."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    return switch if hasattr(switch, "fp32_precision") else None
