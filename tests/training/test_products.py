"""Products by another library: only where they are float32 products, and only within a block."""

import math

import numpy as np
import pytest
import torch

from dptrain import models
from dptrain.core.streams import seeded_key
from dptrain.core.types import Mechanism, Sampling, Setting
from dptrain.training import products, trainer
from dptrain.training.products import Products, using
from dptrain.training.state import State
from tests.runs import make_recipe, train

SWITCH = torch.backends.mkldnn.matmul
AT_FIRST = SWITCH.fp32_precision


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
    """dptrain was imported long before this."""
    assert AT_FIRST == "none"


@pytest.mark.parametrize("private", [False, True])
def test_no_step_runs_in_tf32(monkeypatch, private):
    """Whatever torch or the user has chosen; and on_step, which is the caller's, runs as before."""
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    assert "tf32" in before  # torch's choice for convolutions
    within, after = [], []
    step = trainer.train_step

    def watched(*given):
        within.append([kind.fp32_precision for kind in kinds])
        return step(*given)

    monkeypatch.setattr(trainer, "train_step", watched)
    model, inputs = models.mlp((5,), 2, (3,)), torch.randn(12, 5)
    clip = 1.0 if private else math.inf
    mechanism = Mechanism(Sampling.POISSON, 4, 12, 3, float(private), clip, 4)
    train(
        model,
        Setting("s", "dpsgd", None, 1e-5, mechanism, make_recipe(0.1)),
        "stacked",
        State.start([model]),
        [seeded_key(0, "tf32")],
        inputs,
        torch.zeros(12, dtype=torch.int64),
        np.ones((1, 12), dtype=bool),
        lambda *_: after.append([kind.fp32_precision for kind in kinds]),
    )
    assert within == [["ieee", "ieee"]] * 3
    assert after == [before] * 3
    assert [kind.fp32_precision for kind in kinds] == before
