"""Training steps multiply float32 as float32, and which library does it on a processor: the one
that torch prefers, or oneDNN.

A clip holds only where the norm that is clipped is that of what is summed. So no step multiplies in
TF32, which torch takes for convolutions on CUDA, nor in what `set_float32_matmul_precision` or an
`autocast` around it allows.

With `fp32_precision = "bf16"` torch gives float32 products to oneDNN, which may be faster than MKL
and as accurate, or may really round to bfloat16, as the processor has it. Every process measures
the error before it takes a step so.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

ACCURACY = 1e-6
"""Of an entry of a product, relative to the norms of its row and its column: what float32 sums
reach, and more than a hundred times below what rounding to bfloat16 costs.
"""
SHAPES = ((1, 64, 32, 16), (16, 512, 784, 128), (2, 33, 2001, 7), (4, 1, 600, 300))
"""Of products [batch, rows, inner, columns] that are tried."""

FLOAT32 = ("none", "ieee")
"""Values of torch's switches with which a processor rounds nothing."""


class Products(StrEnum):
    DEFAULT = "default"
    ONEDNN = "onednn"


def available() -> bool:
    """Whether this torch and this processor know the switch; AVX2 alone has no kernels for it."""
    capability = torch.backends.cpu.get_cpu_capability()
    return _switches() != {} and capability not in ("DEFAULT", "NO AVX", "AVX2")


_ONE_AT_A_TIME = threading.RLock()
"""The switches are of the whole process: two threads that train take their steps in turn."""


def float32(products: Products, device: str) -> contextlib.AbstractContextManager[Any]:
    """Products of float32 within the block, by `products` where they are accurate here; afterwards
    everything is as it was. device: the type of the models' device.
    """
    onednn = products == Products.ONEDNN and device == "cpu" and accurate()
    if device == "cuda" or onednn or torch.is_autocast_enabled(device):
        return _switched(onednn, device)
    if any(switch.fp32_precision not in FLOAT32 for switch in _switches().values()):
        return _switched(onednn, device)
    return _ONE_AT_A_TIME  # as most often: what follows would be felt in the smallest steps


@contextlib.contextmanager
def _switched(onednn: bool, device: str) -> Iterator[None]:
    switches = _on_cuda() if device == "cuda" else _on_processor(onednn)
    with _ONE_AT_A_TIME, switches, torch.autocast(device, enabled=False):
        yield


@functools.cache
def accurate() -> bool:
    """Whether oneDNN's products are float32 products on this processor, in every kind of product
    that a step takes.
    """
    if not _switches():
        return False
    with _ONE_AT_A_TIME, _on_processor(True), torch.autocast("cpu", enabled=False):
        return all(_error(shape) <= ACCURACY for shape in SHAPES)


def _into(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b, out=a.new_empty(len(a), a.shape[1], b.shape[2]))


KINDS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.bmm,
    _into,
    lambda a, b: _into(a.mT.contiguous().mT, b),  # as weights get their gradients
    lambda a, b: _into(a, b.mT.contiguous().mT),
    lambda a, b: _into(b.mT, a.mT).mT,
    lambda a, b: torch.stack([each @ other for each, other in zip(a, b, strict=True)]),
    lambda a, b: torch.matmul(a[:, None], b[:, None])[:, 0],
    lambda a, b: torch.baddbmm(a.new_zeros(len(a), 1, b.shape[2]), a, b),
    lambda a, b: torch.baddbmm(a.new_zeros(len(a), a.shape[1], b.shape[2]), a, b, beta=0),
    lambda a, b: torch.stack(
        [torch.nn.functional.linear(each, other.T) for each, other in zip(a, b, strict=True)]
    ),
)
"""Ways in which a step multiplies [batch, rows, inner] by [batch, inner, columns]."""


def _error(shape: tuple[int, int, int, int]) -> float:
    """The largest of products of random matrices, whatever the kind."""
    batch, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
        for size in ((batch, rows, inner), (batch, inner, columns))
    )
    norms = a.norm(dim=2, keepdim=True) * b.norm(dim=1, keepdim=True)
    right = a.double() @ b.double()
    return max(float(((kind(a, b).double() - right).abs() / norms).max()) for kind in KINDS)


@functools.cache
def _switches() -> dict[str, Any]:
    """torch's, for matrix products and convolutions on a processor; none in an old torch."""
    backend = torch.backends.mkldnn
    switches = {name: getattr(backend, name, None) for name in ("matmul", "conv")}
    known = {name: each for name, each in switches.items() if hasattr(each, "fp32_precision")}
    return known if len(known) == len(switches) else {}


@contextlib.contextmanager
def _on_processor(onednn: bool) -> Iterator[None]:
    """The switches of the processor, of which most are left as they are."""
    changed = []
    try:
        for name, switch in _switches().items():
            before = switch.fp32_precision
            wanted = "bf16" if onednn and name == "matmul" else "ieee"
            if before != wanted and not (wanted in FLOAT32 and before in FLOAT32):
                changed.append((switch, before))
                switch.fp32_precision = wanted
        yield
    finally:
        for switch, before in changed:
            switch.fp32_precision = before


@contextlib.contextmanager
def _on_cuda() -> Iterator[None]:
    """No TF32."""
    cudnn: Any = torch.backends.cudnn
    cuda: Any = torch.backends.cuda.matmul
    newer = (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), cuda)
    known: list[Any] = [each for each in newer if hasattr(each, "fp32_precision")]
    known += _switches().values()
    before = [(each, each.fp32_precision) for each in known]
    convolutions = known[0].fp32_precision == "tf32" if known else cudnn.allow_tf32
    matrices = _matmul_precision()
    # By the older switches, since torch raises in many a place where the newer differ from them.
    cudnn.allow_tf32 = cuda.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = convolutions
        if matrices is not None:
            torch.set_float32_matmul_precision(matrices)
        for each, precision in before:
            if each.fp32_precision != precision:
                each.fp32_precision = precision


def _matmul_precision() -> str | None:
    """torch's older switch of matrix products; None where the newer ones say something else."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
