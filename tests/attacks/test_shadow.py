"""Tests of attacks.shadow: its logistic regression beside scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.attacks import shadow
from tests.fleets import fleet


def records(seed, count=400, slope=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)) * [1, 100, 1e-3, 1] + [0, 50, 0, 3]
    x[:, 3] = 0.1 + 1e-17 * rng.integers(0, 3, count)  # constant but for rounding
    y = rng.random(count) < 1 / (1 + np.exp(-slope * (x[:, 0] + (x[:, 1] - 50) / 100)))
    return x, y


@pytest.mark.parametrize("slope", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_scikit_learns(seed, slope):
    """Also where the classes can be separated, and only the penalty bounds the slopes."""
    x, y = records(seed, slope=slope)
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
    ).fit(x, y)
    ours = shadow.fit(x, y).log_odds(x)
    np.testing.assert_allclose(ours, theirs.decision_function(x), rtol=1e-6, atol=1e-6)


def test_one_side_alone_says_what_it_is():
    x, _ = records(0)
    assert (shadow.fit(x, np.ones(len(x), dtype=bool)).log_odds(x) > 5).all()
    assert (shadow.fit(x, np.zeros(len(x), dtype=bool)).log_odds(x) < -5).all()


def test_many_records_are_drawn_from(monkeypatch):
    """The same ones every time, and none twice."""
    monkeypatch.setattr(shadow, "MOST_RECORDS", 50)
    some = shadow.drawn(2000)
    assert len(np.unique(some)) == 50
    assert some.max() > 1000
    assert np.array_equal(some, shadow.drawn(2000))
    assert np.array_equal(shadow.drawn(50), np.arange(50))


@pytest.mark.parametrize("most", [10**6, 300])
def test_a_class_with_records_has_its_own_classifier(monkeypatch, most):
    """And all other classes share one; each by scikit-learn, on the same records."""
    monkeypatch.setattr(shadow, "MIN_PER_CLASS", 40)
    monkeypatch.setattr(shadow, "MOST_RECORDS", most)
    scores = fleet(models=8, examples=120, leak=1.0, classes=4)
    labels = np.minimum(scores.labels, 2)
    labels[:4] = 3  # too few for one
    scores = replace(scores, labels=labels)
    target = 5
    models = np.flatnonzero(scores.shadows(target))
    every, each = np.divmod(np.arange(8 * 120), 120)
    features = shadow._features(scores, every, each).reshape(8, 120, -1)
    expected = np.empty(120)
    for label in range(4):
        columns = np.flatnonzero(labels == label)
        model, column = np.divmod(shadow.drawn(len(models) * len(columns)), len(columns))
        at = models[model], columns[column]
        theirs = make_pipeline(
            StandardScaler(), LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
        ).fit(features[at], scores.membership[at])
        expected[columns] = theirs.decision_function(features[target, columns])
    np.testing.assert_allclose(shadow.shadow(scores, target), expected, rtol=1e-6, atol=1e-6)
    opposite = shadow.shadow(scores, target - 1)  # the same classifiers, asked of another model
    assert not np.array_equal(opposite, shadow.shadow(scores, target))
