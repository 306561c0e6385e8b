"""Numbers of a preset are picked from the rows of its sweeps."""

import pytest

from dptrain.core.errors import PaperError
from dptrain.papers import sweeps
from tests import fleets

PICKED = {"setting": "none", "attack": "lira", "metric": "auc"}


def rows(value, **more):
    about = ("none", "none", None, "lira", "auc", value)
    limits = (None, None) if value is None else (value - 0.1, value + 0.1)
    return [
        fleets.row("none", "none", None, None, "test_accuracy", 0.9, 0.8, 1.0, 4, 0, 9),
        fleets.row(*about, *limits, 4, 9, 9, **more),
        fleets.row(*about, *limits, 4, 9, 9, examples="canaries"),
    ]


def test_one_seed_has_the_interval_of_its_row():
    measured = sweeps._of_rows([rows(0.6)], PICKED)
    assert (measured.value, measured.of) == (0.6, "4 models")
    assert (measured.low, measured.high) == pytest.approx((0.5, 0.7))


def test_several_seeds_have_their_least_and_greatest():
    measured = sweeps._of_rows([rows(0.6), rows(0.9), rows(0.6)], PICKED)
    assert measured.value == pytest.approx(0.7)
    assert (measured.low, measured.high, measured.of) == (0.6, 0.9, "3 seeds")


def test_a_refused_or_unknown_number_is_named():
    with pytest.raises(PaperError, match="attack lira, metric auc was refused: refused: few"):
        sweeps._of_rows([rows(0.6), rows(None, note="refused: few")], PICKED)
    with pytest.raises(PaperError, match="no row is setting none, attack rmia"):
        sweeps._of_rows([rows(0.6)], {**PICKED, "attack": "rmia"})
