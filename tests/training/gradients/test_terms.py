"""Norms and weighted sums of per-example gradients, against gradients that are written out."""

import pytest
import torch

from dptrain.training.gradients import terms


def test_norms_of_long_rows_do_not_come_out_too_small():
    """float32 squares that are added up one after the other lose .14 % over 25 million."""
    values = torch.full((2, 3_000_000), 1e-3)
    want = 1e-3 * 3_000_000**0.5
    assert terms.norm(values).tolist() == pytest.approx([want, want], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_an_outer_product_is_measured_without_being_written_out(scale):
    generator = torch.Generator().manual_seed(0)
    g = scale * torch.randn(2, 5, 3, generator=generator)
    a = torch.randn(2, 5, 4, generator=generator)
    term = terms.Outer(a, g)
    written = g[..., :, None] * a[..., None, :]
    torch.testing.assert_close(term.norm(), written.flatten(2).norm(dim=2))
    factors, out = torch.rand(2, 5, generator=generator), torch.empty(2, 3, 4)
    term.total(factors, None, out)
    torch.testing.assert_close(out, (factors[..., None, None] * written).sum(1))
