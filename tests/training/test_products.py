"""Products by another library: only where they are float32 products, and only within a block."""

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dptrain import models
from dptrain.core.streams import seeded_key
from dptrain.core.types import EngineKind, Mechanism, Sampling, Setting
from dptrain.training import products, trainer
from dptrain.training.products import Products, float32
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData
from tests.runs import make_recipe

SWITCH = torch.backends.mkldnn.matmul
AT_FIRST = SWITCH.fp32_precision


@pytest.fixture(autouse=True)
def _fresh():
    products.accurate.cache_clear()
    yield
    products.accurate.cache_clear()


def rounds(monkeypatch, name, when=lambda a, b: True):
    """A processor on which the switch really rounds to bfloat16, in some products of one kind."""
    multiply = getattr(torch, name)

    def rounded(*given, **options):
        *first, a, b = given
        if SWITCH.fp32_precision == "bf16" and when(a, b):
            a, b = (each.bfloat16().float() for each in (a, b))
        return multiply(*first, a, b, **options)

    monkeypatch.setattr(torch, name, rounded)


def test_the_switch_is_on_within_the_block_alone():
    if not products.accurate():
        pytest.skip("this processor rounds to bfloat16")
    assert AT_FIRST == SWITCH.fp32_precision == "none"  # dptrain was imported long before this
    with float32(Products.DEFAULT, "cpu"):
        assert SWITCH.fp32_precision in ("none", "ieee")
    with float32(Products.ONEDNN, "cuda"):
        assert SWITCH.fp32_precision in ("none", "ieee")

    def fail():
        with float32(Products.ONEDNN, "cpu"):
            assert SWITCH.fp32_precision == "bf16"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert SWITCH.fp32_precision == "none"


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("bmm", lambda a, b: a.shape[-1] > 1000),
        ("bmm", lambda a, b: not a.is_contiguous()),
        ("bmm", lambda a, b: a.shape[-2] == 1),
        ("baddbmm", lambda a, b: True),
        ("matmul", lambda a, b: a.ndim == 4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stays_off_where_it_rounds(monkeypatch, name, when, dtype):
    """Whatever kind of product rounds, and whatever torch's default kind of number is."""
    rounds(monkeypatch, name, when)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert not products.accurate()
    finally:
        torch.set_default_dtype(before)
    with float32(Products.ONEDNN, "cpu"):
        assert SWITCH.fp32_precision in ("none", "ieee")


def test_what_is_measured_is_what_rounding_costs():
    """Rounding to bfloat16 lies far above the limit, and float32 products below a half of it."""
    a, b = torch.randn(2, 40, 300), torch.randn(2, 300, 9)
    norms = a.norm(dim=2, keepdim=True) * b.norm(dim=1, keepdim=True)
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    assert ((rounded - a.double() @ b.double()).abs() / norms).max() > 100 * products.ACCURACY
    assert all(products._error(shape) < products.ACCURACY / 2 for shape in products.SHAPES)


def test_a_torch_without_the_switch(monkeypatch):
    monkeypatch.setattr(products, "_switches", dict)
    assert not products.available()
    assert not products.accurate()
    with float32(Products.ONEDNN, "cpu"):
        pass


def state_of_torch():
    kinds = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    kinds += torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    return [kind.fp32_precision for kind in kinds]


@pytest.mark.parametrize("choice", ["highest", "high", "medium"])
def test_a_users_choice_of_precision_reaches_no_step_and_comes_back(choice):
    """torch raises where its older and its newer switches disagree: cuBLAS asks the older one."""
    torch.set_float32_matmul_precision(choice)
    try:
        before = state_of_torch()
        with float32(Products.DEFAULT, "cpu"):
            assert not {"bf16", "tf32"} & set(state_of_torch()[3:])
        assert state_of_torch() == before
        with float32(Products.DEFAULT, "cuda"):
            assert not {"bf16", "tf32"} & set(state_of_torch()[:3])
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
            with torch.backends.cudnn.flags(enabled=False):
                pass
        assert state_of_torch() == before
        assert torch.get_float32_matmul_precision() == choice
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_an_autocast_around_a_step_does_not_reach_it():
    a = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with float32(Products.DEFAULT, "cpu"):
            assert (a @ a).dtype == torch.float32


def test_two_threads_do_not_undo_each_other():
    """The first must not restore what the second still needs, nor the second keep what the first
    set.
    """
    before, seen = state_of_torch(), []

    def step(_):
        for _ in range(50):
            with float32(Products.DEFAULT, "cuda"):
                time.sleep(1e-4)
                seen.append("tf32" in state_of_torch())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(step, range(4)))
    assert len(seen) == 200
    assert not any(seen)
    assert state_of_torch() == before


@pytest.mark.parametrize("private", [False, True])
def test_every_step_of_a_run_and_nothing_else_is_taken_so(monkeypatch, private):
    """on_step is the caller's and runs as before."""
    within, after = [], []
    step, guard = trainer.train_step, trainer.float32

    @contextlib.contextmanager
    def guarded(*given):
        with guard(*given):
            within.append(given)
            yield
            within.append("left")

    def watched(*given):
        assert within[-1] == (Products.ONEDNN, "cpu")
        return step(*given)

    monkeypatch.setattr(trainer, "train_step", watched)
    monkeypatch.setattr(trainer, "float32", guarded)
    model, inputs = models.mlp((5,), 2, (3,)), torch.randn(12, 5)
    clip = 1.0 if private else math.inf
    mechanism = Mechanism(Sampling.POISSON, 4, 12, 3, float(private), clip, 4)
    setting = Setting("s", "dpsgd", None, 1e-5, mechanism, make_recipe(0.1))
    data = TrainingData(inputs, torch.zeros(12, dtype=torch.int64), np.ones((1, 12), dtype=bool))
    keys = [seeded_key(0, "products")]
    plan = Trainer.of(model, setting, EngineKind.STACKED, keys, data, products=Products.ONEDNN)
    trainer.train(plan, State.start([model]), lambda *_: after.append(within[-1]))
    assert after == ["left"] * 3
    assert len(within) == 6
