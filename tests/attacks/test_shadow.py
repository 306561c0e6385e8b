"""Tests of attacks.shadow."""

from dptrain.attacks import ATTACKS
from dptrain.evaluation import metrics
from tests.fleets import fleet


def test_shadow_uses_classes_of_their_own_where_counts_allow():
    scores = fleet(models=8, examples=300, classes=2, leak=2.0)
    own = ATTACKS["shadow"](scores, 0)
    assert metrics.auc(own, scores.membership[0]) > 0.6
    # Too few records a class: one classifier for all.
    few = fleet(models=4, examples=30, classes=3, leak=4.0)
    assert metrics.auc(ATTACKS["shadow"](few, 0), few.membership[0]) > 0.7
