"""Per-example gradients of one parameter: their norms, and their weighted sum.

They are written out in full before they are measured. Norms from Gram matrices would need less
memory, but where the parts of one example's gradient cancel they lose the digits that clipping
depends on. Only the outer product of a Linear layer on [batch, features] stays factored; nothing
can cancel in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def wide(values: Float[Tensor, " ..."]) -> Tensor:
    """In float32 at least: norms and sums of a bfloat16 pass are not made in its eight bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


BLOCK = 4096


TINY = 1e-15
"""Below it the squares in a float32 norm may have underflowed: a gradient of 1e-20 on inputs of
1e30 would pass unclipped.
"""


def norm(values: Float[Tensor, "... size"]) -> Tensor:
    """L2 norm over the last dimension: in two levels, because torch adds up float32 squares one
    after the other, and over millions the norm comes out too small by parts in a thousand; the
    tiniest again in float64, which is too slow for all.
    """
    squares = _norm(values)
    tiny = squares < TINY
    if bool(tiny.any()):
        squares[tiny] = torch.linalg.vector_norm(values[tiny].double(), dim=-1).to(squares.dtype)
    return squares


def _norm(values: Float[Tensor, "... size"]) -> Tensor:
    whole = values.shape[-1] // BLOCK * BLOCK
    if whole == 0:
        result: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return result
    parts = torch.linalg.vector_norm(values[..., :whole].unflatten(-1, (-1, BLOCK)), dim=-1)
    return _norm(parts).hypot(torch.linalg.vector_norm(values[..., whole:], dim=-1))


@runtime_checkable
class Term(Protocol):
    """Gradients of one parameter, an example each."""

    def norm(self) -> Tensor:
        """L2 norms [K, B]."""

    def total(
        self,
        factors: Float[Tensor, "K B"],
        keep: Bool[Tensor, "K B"] | None,
        out: Float[Tensor, "K ..."],
    ) -> None:
        """Write the sum over examples weighted by factors [K, B] to out [K, *shape]; keep [K, B] is
        False where an example must leave no trace even if it is not finite (0 * inf is nan), None
        if all are finite.
        """


@dataclass(frozen=True)
class Dense:
    """samples [K, B, *shape]; `arrange` takes [K, *shape] to the parameter's own order of
    dimensions.
    """

    samples: Tensor
    arrange: Callable[[Tensor], Tensor] = field(default=lambda total: total)

    def norm(self) -> Tensor:
        return norm(self.samples.flatten(2))

    def total(
        self,
        factors: Float[Tensor, "K B"],
        keep: Bool[Tensor, "K B"] | None,
        out: Float[Tensor, "K ..."],
    ) -> None:
        samples = _only(keep, self.samples).flatten(2)
        summed = torch.bmm(factors[:, None], samples)[:, 0]
        out.copy_(self.arrange(summed.unflatten(1, self.samples.shape[2:])))


@dataclass(frozen=True)
class Outer:
    """The outer product of g [K, B, O] and a [K, B, I], never formed: its norm is |g| |a|
    (Goodfellow 2015).
    """

    a: Tensor
    g: Tensor

    def norm(self) -> Tensor:
        # vector_norm, because a.square() would write a temporary as large as the batch, which costs
        # more than the products; norms, not their squares, because those underflow.
        return norm(self.a) * norm(self.g)

    def total(
        self,
        factors: Float[Tensor, "K B"],
        keep: Bool[Tensor, "K B"] | None,
        out: Float[Tensor, "K ..."],
    ) -> None:
        torch.bmm(
            (_only(keep, self.g) * factors[..., None]).transpose(1, 2), _only(keep, self.a), out=out
        )


@dataclass(frozen=True)
class Rows:
    """Gradients that touch few rows of a table: values [K, B, T, D] at rows index [K, B, T], no row
    twice but with zeros.
    """

    index: Tensor
    values: Tensor

    def norm(self) -> Tensor:
        return norm(self.values.flatten(2))

    def total(
        self,
        factors: Float[Tensor, "K B"],
        keep: Bool[Tensor, "K B"] | None,
        out: Float[Tensor, "K ..."],
    ) -> None:
        values = _only(keep, self.values) * factors[..., None, None]
        offset = torch.arange(len(out), device=out.device)[:, None, None] * out.shape[1]
        out.zero_().view(-1, out.shape[-1]).index_add_(
            0, (self.index + offset).flatten(), values.flatten(0, 2)
        )


def _only(keep: Bool[Tensor, "K B"] | None, values: Float[Tensor, "K B ..."]) -> Tensor:
    if keep is None:
        return values
    return torch.where(
        keep.view(*keep.shape, *[1] * (values.dim() - 2)), values, torch.zeros_like(values)
    )
