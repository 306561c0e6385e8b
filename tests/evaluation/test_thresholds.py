"""Tests of evaluation.thresholds."""

import itertools

import numpy as np
import pytest

from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal
from dptrain.evaluation import thresholds
from dptrain.evaluation.rows import Threshold
from tests import reference
from tests.fleets import fleet, rich
from tests.helpers.attacks import matrix, rows


def test_thresholds_from_the_population_keep_their_false_positive_rate():
    """10 % of an alike population reach them, and so do about 10 % of the non-members."""
    scores = rich(models=8, examples=400, population=1000, seed=3)
    attacked = thresholds.run(scores, "loss", {})
    view = thresholds.ScoredExamples(scores, attacked, None)
    kinds = {(source, each): guess for source, each, guess in view.guesses()}
    assert set(kinds) == set(itertools.product(Threshold, (False, True)))
    for each in (False, True):
        rate = kinds[Threshold.POPULATION, each]()[~scores.membership].mean()
        assert abs(rate - 0.1) < 0.03
    assert "advantage_population" in rows(scores)


def test_a_threshold_per_class_helps_where_classes_differ():
    scores = fleet(models=8, examples=900, classes=3, leak=1.5, seed=1)
    shifted = scores.logits.copy()
    # The loss of every class has a range of its own.
    shifted[:, np.arange(900), 0, scores.labels] += 4.0 * scores.labels[None]
    found = rows(Scores(shifted, scores.labels, scores.membership))
    assert found["advantage_per_class"].low > found["advantage"].estimate


def test_separate_shadows_choose_the_threshold():
    """A target and a shadow that never saw each other's examples; the shadow's best threshold is
    applied to the target.
    """
    target, shadow = (
        fleet(models=2, examples=400, leak=3.0, seed=5),
        fleet(models=2, examples=300, leak=3.0, seed=6),
    )
    first = Scores(shadow.logits[:1], shadow.labels, shadow.membership[:1])
    scores = Scores(target.logits[:1], target.labels, target.membership[:1], separate=first)
    threshold = reference.best_threshold(-first.loss[0], first.membership[0])
    guess = -scores.loss[0] >= threshold
    expected = guess[scores.membership[0]].mean() - guess[~scores.membership[0]].mean()
    found = rows(scores)
    assert found["advantage"].estimate == pytest.approx(expected)
    assert rows(scores, attack="shadow")["auc"].estimate > 0.8
    with pytest.raises(Refusal, match="shadow models"):
        matrix(scores, "lira")


def test_scores_that_are_no_numbers_are_refused(monkeypatch):
    """Of an attack of another package: they would be above or below every threshold at once."""
    scores = fleet(models=4, examples=20)
    monkeypatch.setattr(
        thresholds, "find", lambda _name: lambda _scores, _target: np.full(20, np.nan)
    )
    with pytest.raises(Refusal, match="no numbers"):
        thresholds.run(scores, "theirs", {})
