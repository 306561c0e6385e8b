"""Crossings of zero."""

import math

import pytest

from dptrain.core.roots import crossing


def test_known_crossings():
    assert crossing(lambda x: x * x - 2) == pytest.approx(math.sqrt(2), abs=1e-11)
    assert crossing(lambda x: x - 700.0) == pytest.approx(700.0, rel=1e-11)
    assert crossing(lambda x: x + 1.0, start=3.0) == 3.0
    assert crossing(lambda x: -1.0) == math.inf


def test_a_yes_or_no_is_bisected():
    assert crossing(lambda x: 1.0 if x > 0.3 else -1.0) == pytest.approx(0.3, abs=1e-11)
