"""Metrics against slow twins and known truths."""

import math

import numpy as np
import pytest

from dptrain import metrics
from dptrain.types import Refusal
from tests import reference


def draw(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    member[:2] = True, False
    scores = rng.normal(size=n) + 0.7 * member
    return (np.round(scores, 0) if ties else scores), member


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [False, True])
def test_against_slow_twins(seed, ties):
    scores, member = draw(seed, ties=ties)
    assert metrics.auc(scores, member) == pytest.approx(reference.auc(scores, member), abs=1e-12)
    assert metrics.oracle_advantages(scores[None], member[None])[0] == pytest.approx(reference.best_advantage(scores, member), abs=1e-12)
    for fpr in (0.02, 0.1, 0.5):
        found = metrics.tprs_at_fpr(scores[None], member[None], fpr, together=False)[0]
        assert found == pytest.approx(reference.tpr_at_fpr(scores, member, fpr), abs=1e-12)


def tpr(scores, member, fpr):
    return metrics.tprs_at_fpr(scores[None], member[None], fpr, together=False)[0]


def test_circular_roc():
    """Scores whose ROC is a quarter circle: AUC = pi / 4."""
    u = (np.arange(20_000) + 0.5) / 20_000
    scores = np.concatenate([1 - u, np.sqrt(1 - u**2)])  # FPR(s) = 1 - s ; TPR(s) = sqrt(1 - s^2)
    member = np.arange(40_000) >= 20_000
    fpr, tpr = metrics.roc(scores, member)
    assert np.abs((1 - fpr) ** 2 + tpr**2 - 1).max() < 1e-3
    assert metrics.auc(scores, member) == pytest.approx(math.pi / 4, abs=1e-3)


def test_constant_scores_know_nothing():
    member = np.arange(4000) % 2 == 0
    scores = np.zeros(4000)
    assert metrics.auc(scores, member) == 0.5
    assert tpr(scores, member, 0.01) == 0.0  # one group: taking it means FPR 1
    assert metrics.oracle_advantages(scores[None], member[None])[0] == 0


def test_order_of_ties_does_not_matter():
    member = np.array([True] * 1000 + [False] * 1000)
    scores = np.ones(2000)
    assert tpr(scores, member, 0.01) == tpr(scores, member[::-1], 0.01) == 0.0


@pytest.mark.parametrize(
    ("outside", "fpr", "refused"), [(999, 0.01, True), (1000, 0.01, False), (1000, 0.001, True), (10_000, 0.001, False)]
)
def test_tpr_is_refused_where_non_members_cannot_resolve_it(outside, fpr, refused):
    if refused:
        with pytest.raises(Refusal, match="non-members"):
            metrics.require_non_members(outside, fpr)
    else:
        metrics.require_non_members(outside, fpr)


def test_clopper_pearson_known_values():
    assert metrics.clopper_pearson(0, 100)[1] == pytest.approx(1 - 0.025 ** (1 / 100))
    assert metrics.clopper_pearson(100, 100)[0] == pytest.approx(0.025 ** (1 / 100))
    assert metrics.clopper_pearson(8, 20) == pytest.approx((0.1912, 0.6395), abs=1e-4)


def test_shadow_threshold_never_reads_the_targets_labels():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 300))
    membership = rng.random((6, 300)) < 0.5
    shadows = ~np.eye(6, dtype=bool)
    flipped = membership.copy()
    flipped[2] = ~flipped[2]
    before, after = (metrics.shadow_advantages(scores, m, shadows)[2] for m in (membership, flipped))
    assert before == pytest.approx(-after)  # the same guesses, judged by opposite labels


def test_shadow_threshold_is_the_best_one_of_the_shadows():
    rng = np.random.default_rng(1)
    membership = rng.random((6, 300)) < 0.5
    scores = np.round(rng.normal(size=(6, 300)) + membership, 1)
    shadows = ~np.eye(6, dtype=bool)
    for target, found in enumerate(metrics.shadow_advantages(scores, membership, shadows)):
        chosen = shadows[target]
        threshold = reference.best_threshold(scores[chosen].ravel(), membership[chosen].ravel())
        assert found == metrics.advantage(scores[target], membership[target], threshold)


def test_no_shadows_no_threshold():
    scores, membership = np.zeros((2, 10)), np.array([[True] * 5 + [False] * 5] * 2)
    with pytest.raises(Refusal, match="models_per_setting"):
        metrics.shadow_advantages(scores, membership, np.zeros((2, 2), dtype=bool))


def interval(scores, membership, values=metrics.aucs, confidence=0.95):
    return metrics.fleet_interval(values, scores, membership, (0, 1))(confidence)


def test_interval_covers_a_known_auc():
    """Scores N(mu, 1) for members: AUC = Phi(mu / sqrt 2). 95 % intervals over 200 fleets miss at most 24 times (the 1e-6 limit of
    Binomial(200, .05)); with the example shared over targets, as in a fleet."""
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


def test_interval_counts_and_limits():
    scores, member = draw(0)
    one = interval(scores[None], member[None])
    assert (one.low, one.high, one.targets) == (0, 1, 1)
    two = interval(np.stack([scores, scores + 1]), np.stack([member, member]))
    assert (two.targets, two.n_in, two.n_out) == (2, 2 * member.sum(), 2 * (~member).sum())
    assert 0 <= two.low <= two.estimate <= two.high <= 1


def test_pooled_rates_use_one_threshold_and_hold_clopper_pearson():
    rng = np.random.default_rng(3)
    membership = rng.random((16, 1500)) < 0.5
    scores = rng.normal(size=(16, 1500)) + 2.0 * membership
    assert metrics.pooled(membership, 0.001)
    assert not metrics.pooled(membership, 0.05)
    together = metrics.tprs_at_fpr(scores, membership, 0.001, together=True)
    assert together.shape == (1,)
    assert together[0] == tpr(scores.ravel(), membership.ravel(), 0.001)
    found = metrics.widen(interval(scores, membership, lambda s, m: metrics.tprs_at_fpr(s, m, 0.001, True)), 100, 0.95)
    low, high = metrics.clopper_pearson(found.estimate * 100, 100)
    assert found.low <= low
    assert found.high >= high
