"""Figures hold what they are given."""

from dataclasses import replace

import numpy as np
import pytest

from dptrain.evaluation.utility import CONSTANT, metric_of
from dptrain.privacy import pld
from dptrain.report.charts import figures
from dptrain.report.record import roc_of
from tests.fleets import row

pytestmark = pytest.mark.whole


def rows():
    result = []
    for name, epsilon, ceiling, auc in (("none", None, None, 0.7), ("dpsgd-2", 2.0, 0.8, 0.6)):
        about = (name, "dpsgd" if epsilon else "none", epsilon)
        result.append(row(*about, None, "test_accuracy", 0.9, 0.88, 0.92, 4, 0, 100))
        result.append(row(*about, "lira", "auc", auc, auc - 0.02, auc + 0.02, 4, 9, 9, ceiling))
    return result


def test_the_frontier_shows_every_setting_and_ceiling():
    figure = figures.frontier(rows())
    left, middle, right = figure.axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["2", "no DP"]
    assert [text.get_text() for text in right.texts] == ["2 (lira)", "no DP (lira)"] or {
        text.get_text() for text in right.texts
    } == {"2 (lira)", "no DP (lira)"}
    assert "proved ceiling" in [text.get_text() for text in middle.get_legend().get_texts()]


def test_a_refused_attack_is_in_no_legend():
    refused = [
        replace(each, attack="rmia", estimate=None, low=None, high=None, note="refused: few")
        for each in rows()
        if each.attack
    ]
    _, middle, _ = figures.frontier([*rows(), *refused]).axes
    said = {text.get_text() for text in middle.get_legend().get_texts()}
    assert said == {"lira", "proved ceiling"}


def test_a_run_without_attacks_is_drawn_without_a_warning():
    """As that of a model that is given away."""
    figure = figures.frontier([each for each in rows() if each.attack is None])
    assert figures.image(figure, "png").startswith(b"\x89PNG")
    assert [axes.get_legend() for axes in figure.axes] == [None, None, None]


def test_precision_stays_below_what_is_proved():
    """On curves that the bound itself gives."""
    bound = pld.claimed_trade_off(2.0, 1e-5)
    figure = figures.precision(roc_of("s", {"lira": (bound.fpr, bound.tpr)}, bound, 1000))
    [axes] = figure.axes
    attack, proved, _ = axes.get_lines()
    recall, share = attack.get_data()
    limit = np.interp(recall, *proved.get_data())
    assert (share <= limit + 1e-3).all()
    assert share[np.isclose(recall, 1, atol=1e-6)] == pytest.approx(0.5, abs=1e-3)


def test_a_constant_prediction_is_drawn_where_it_squeezes_nothing():
    for value, expected in ((0.88, True), (0.1, False)):
        constant = row(CONSTANT, "", None, None, "test_accuracy", value, value, value, 1, 0, 100)
        left, _, right = figures.frontier([*rows(), constant]).axes
        assert ([line.get_label() for line in left.lines].count(CONSTANT) == 1) == expected
        assert len(left.get_xticklabels()) == len(right.texts) == 2


def test_a_utility_without_a_value_leaves_the_risks():
    """As the AUROC of a test set of one class."""
    refused = [replace(each, metric=metric_of("auroc"), estimate=None) for each in rows()[::2]]
    left, middle, right = figures.frontier([*rows(), *refused], "auroc").axes
    assert not right.texts
    assert left.get_ylabel() == "test AUROC"
    assert "lira" in [text.get_text() for text in middle.get_legend().get_texts()]


def test_rocs_stand_under_their_bound():
    curve = (np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.4, 1.0]))
    bound = pld.claimed_trade_off(2.0, 1e-5)
    figure = figures.roc([roc_of("dpsgd-2", {"lira": curve}, bound, 1000)])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["chance", "lira", "proved bound"]
    shown = figures.pixels(figure)
    assert shown.dtype == np.uint8
    assert shown.ndim == 3
    assert figures.image(figure, "svg").startswith(b"<?xml")
