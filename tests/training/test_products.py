"""Products by another library: only where they are float32 products, and only within a block."""

import subprocess
import sys

import pytest
import torch

from dptrain.training import products
from dptrain.training.products import Products, using

SWITCH = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def _fresh():
    products.accurate.cache_clear()
    yield
    products.accurate.cache_clear()


@pytest.fixture
def rounding(monkeypatch):
    """A processor on which the switch really rounds to bfloat16, in some products at least."""
    bmm = torch.bmm

    def rounded(a, b, **options):
        if SWITCH.fp32_precision == "bf16" and a.shape[-1] > 1000:
            a, b = (each.bfloat16().float() for each in (a, b))
        return bmm(a, b, **options)

    monkeypatch.setattr(torch, "bmm", rounded)


def test_the_switch_is_on_within_the_block_alone():
    before = SWITCH.fp32_precision
    if not products.accurate():
        pytest.skip("this processor rounds to bfloat16")
    assert SWITCH.fp32_precision == before
    with using(Products.DEFAULT):
        assert SWITCH.fp32_precision == before

    def fail():
        with using(Products.ONEDNN):
            assert SWITCH.fp32_precision == "bf16"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert SWITCH.fp32_precision == before


def test_it_stays_off_where_it_rounds(rounding):
    before = SWITCH.fp32_precision
    assert not products.accurate()
    with using(Products.ONEDNN):
        assert SWITCH.fp32_precision == before


def test_what_is_measured_is_what_rounding_costs():
    """Rounding to bfloat16 lies far above the limit, and float32 products below a half of it."""
    a, b = torch.randn(2, 40, 300), torch.randn(2, 300, 9)
    norms = a.norm(dim=2, keepdim=True) * b.norm(dim=1, keepdim=True)
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    assert ((rounded - a.double() @ b.double()).abs() / norms).max() > 100 * products.ACCURACY
    assert all(products._error(shape) < products.ACCURACY / 2 for shape in products.SHAPES)


def test_a_torch_without_the_switch(monkeypatch):
    monkeypatch.setattr(products, "_switch", lambda: None)
    assert not products.available()
    assert not products.accurate()
    with using(Products.ONEDNN):
        pass


def test_an_import_changes_nothing():
    code = (
        "import torch; before = torch.backends.mkldnn.matmul.fp32_precision; import dptrain.api, "
        "dptrain.fleet.placement, dptrain.training.products; "
        "assert torch.backends.mkldnn.matmul.fp32_precision == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
