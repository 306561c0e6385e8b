"""Tests of evaluation.intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from dptrain.core import streams
from dptrain.evaluation import (
    intervals,
    metrics,
)
from dptrain.evaluation.rankings import Ranking, Rankings
from tests.helpers.metrics import draw, tpr, weighed


def test_clopper_pearson_known_values():
    assert intervals.clopper_pearson(0, 100)[1] == pytest.approx(1 - 0.025 ** (1 / 100))
    assert intervals.clopper_pearson(100, 100)[0] == pytest.approx(0.025 ** (1 / 100))
    assert intervals.clopper_pearson(8, 20) == pytest.approx((0.1912, 0.6395), abs=1e-4)


def interval(scores, membership, confidence=0.95):
    return intervals.fleet_interval(metrics.aucs(Rankings(scores, membership)), membership, (0, 1))(
        confidence
    )


def test_interval_covers_a_known_auc():
    """Scores N(mu, 1) for members: AUC = Phi(mu / sqrt 2). 95 % intervals over 200 fleets miss at
    most 24 times (the 1e-6 limit of Binomial(200, .05)); with the example shared over targets, as
    in a fleet.
    """
    from scipy.stats import norm

    truth, misses = norm.cdf(0.5 / math.sqrt(2)), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        membership = rng.random((8, 200)) < 0.5
        shared = rng.normal(size=200) * math.sqrt(0.7)
        scores = shared + math.sqrt(0.3) * rng.normal(size=(8, 200)) + 0.5 * membership
        found = interval(scores, membership)
        misses += not found.low <= truth <= found.high
    assert misses <= 24


@pytest.mark.long
def test_interval_of_one_target_covers_a_known_auc():
    """The same for single targets: 200 bootstrap intervals miss at most 24 times."""
    from scipy.stats import norm

    truth, misses = norm.cdf(1 / math.sqrt(2)), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = rng.random((1, 150)) < 0.5
        found = interval(rng.normal(size=(1, 150)) + member, member)
        misses += not found.low <= truth <= found.high
    assert misses <= 24


def test_interval_counts_and_limits():
    scores, member = draw(0)
    one = interval(scores[None], member[None])
    assert 0 < one.low < one.estimate < one.high < 1
    assert one.targets == 1
    perfect = interval(member[None].astype(float), member[None])
    assert perfect.estimate == perfect.high == 1.0
    assert perfect.low == pytest.approx(
        intervals.clopper_pearson(
            min(member.sum(), (~member).sum()), min(member.sum(), (~member).sum())
        )[0]
    )
    two = interval(np.stack([scores, scores + 1]), np.stack([member, member]))
    assert (two.targets, two.n_in, two.n_out) == (2, 2 * member.sum(), 2 * (~member).sum())
    assert 0 <= two.low <= two.estimate <= two.high <= 1


def test_pooled_rates_use_one_threshold_and_hold_clopper_pearson():
    rng = np.random.default_rng(3)
    membership = rng.random((16, 1500)) < 0.5
    scores = rng.normal(size=(16, 1500)) + 2.0 * membership
    assert metrics.pooled(membership, 0.001)
    assert not metrics.pooled(membership, 0.05)
    everyone = Ranking.of(scores.ravel(), membership.ravel())
    values = metrics.tpr_at_fpr_together(everyone, membership, 0.001)
    together = weighed(values, 16, 1500)
    assert together.shape == (1,)
    assert together[0] == tpr(scores.ravel(), membership.ravel(), 0.001)
    kept = np.arange(16) != 3
    assert values.of(np.ones((1, 1500)), kept[None])[0, 0] == tpr(
        scores[kept].ravel(), membership[kept].ravel(), 0.001
    )
    found = intervals.widen(intervals.fleet_interval(values, membership, (0, 1))(0.95), 100, 0.95)
    low, high = intervals.clopper_pearson(found.estimate * 100, 100)
    assert found.low <= low
    assert found.high >= high


def test_the_jackknife_of_examples_is_inflated():
    """Of a mean over ten equal blocks it is the variance of a mean, (g - 1) / g times the sum of
    squares.
    """
    rng = np.random.default_rng(0)
    member = streams.memberships(4, 1000, streams.seeded_key(0, "jackknife"))
    x = rng.normal(size=1000)
    values = np.tile(x, (4, 1))  # all targets alike: nothing varies but the examples
    interval = intervals.fleet_interval(
        metrics.PerTarget(lambda weights: weights @ values.T / weights.sum(axis=1, keepdims=True)),
        member,
        (-9.0, 9.0),
    )(0.95)
    block = np.random.default_rng(0).permutation(1000) % 10
    without = np.array([x[block != b].mean() for b in range(10)])
    error = np.sqrt(9 / 10 * np.square(without - without.mean()).sum())
    assert interval.high - interval.estimate == pytest.approx(
        stats.t.ppf(0.975, 3) * error, rel=1e-9
    )
