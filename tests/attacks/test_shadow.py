"""Tests of attacks.shadow: its logistic regression beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.attacks import shadow


def records(seed, count=400, slope=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)) * [1, 100, 1e-3, 1] + [0, 50, 0, 3]
    x[:, 3] = 7  # a feature that says nothing
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
    """The same ones every time, none twice, and their slopes are those of all but for chance:
    within five standard errors.
    """
    x, y = records(0, count=20_000)
    whole = shadow.fit(x, y).log_odds(x)
    monkeypatch.setattr(shadow, "MOST_RECORDS", 5_000)
    some = shadow.drawn(len(y))
    assert len(np.unique(some)) == 5_000
    assert np.array_equal(some, shadow.drawn(len(y)))
    part = shadow.fit(x[some], y[some]).log_odds(x)
    assert not np.array_equal(whole, part)
    assert abs(part - whole).max() < 5 * 0.15
