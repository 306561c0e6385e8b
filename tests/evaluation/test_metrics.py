"""Metrics against slow twins and known truths."""

import itertools
import math

import numpy as np
import pytest

from dptrain.core.errors import Refusal
from dptrain.evaluation import metrics, rankings
from dptrain.evaluation.rankings import Ranking, Rankings
from tests import reference
from tests.helpers.metrics import draw, tpr, weighed


def oracle(scores, member):
    """The best advantage of one target at a threshold that knows its labels."""
    threshold = metrics.best_thresholds(
        Rankings(scores[None], member[None]), np.ones((1, 1), dtype=bool)
    )
    return weighed(
        metrics.advantages(scores[None] >= threshold[:, None], member[None]), 1, len(scores)
    )[0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [False, True])
def test_against_slow_twins(seed, ties):
    scores, member = draw(seed, ties=ties)
    assert metrics.auc(scores, member) == pytest.approx(reference.auc(scores, member), abs=1e-12)
    assert oracle(scores, member) == pytest.approx(
        reference.best_advantage(scores, member), abs=1e-12
    )
    (best,) = metrics.oracle_thresholds(Rankings(scores[None], member[None]))
    assert (
        best
        == metrics.best_thresholds(Rankings(scores[None], member[None]), np.ones((1, 1), bool))[0]
    )
    for fpr in (0.02, 0.1, 0.5):
        assert tpr(scores, member, fpr) == pytest.approx(
            reference.tpr_at_fpr(scores, member, fpr), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(20))
def test_weights_count_examples_so_often(seed):
    """Weight 2 is the example twice, weight 0 is the example left out, for every metric."""
    rng = np.random.default_rng(seed)
    scores, member = draw(seed, ties=seed % 2 == 0)
    weights = rng.integers(0, 3, len(scores)).astype(float)
    weights[:2] = 1
    often = np.repeat(np.arange(len(scores)), weights.astype(int))
    ranking = Ranking.of(scores, member)
    assert ranking.auc(weights[None])[0] == pytest.approx(
        reference.auc(scores[often], member[often]), abs=1e-12
    )
    assert tpr(scores, member, 0.2, weights) == pytest.approx(
        reference.tpr_at_fpr(scores[often], member[often], 0.2), abs=1e-12
    )
    guess, one = (scores > 0)[None], np.ones((1, 1), dtype=bool)
    found = metrics.advantages(guess, member[None]).of(weights[None])[0, 0]
    taken, inside = guess[0][often], member[often]
    assert found == pytest.approx(taken[inside].mean() - taken[~inside].mean(), abs=1e-12)
    expected = taken[inside].mean() / (taken[inside].mean() + 10 * taken[~inside].mean())
    found = metrics.ppv(guess, member[None], 10).of(weights[None], one)[0, 0]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_a_rate_needs_the_top_of_a_ranking_only(seed, monkeypatch):
    """However few ranks are looked at first, and where the cut goes through equal scores."""
    monkeypatch.setattr(rankings, "FIRST_RANKS", 1 + seed % 3)
    scores, member = draw(seed, ties=True)
    weights = np.random.default_rng(seed).integers(0, 3, (2, len(scores))).astype(float)
    membership, matrix = np.stack([member, ~member]), np.stack([scores, scores[::-1]])
    everyone = Ranking.of(matrix.ravel(), membership.ravel())
    sets = np.array([[True, True], [True, False], [False, True]])
    for fpr in (0.0, 0.1, 0.6):
        together = metrics.tpr_at_fpr_together(everyone, membership, fpr).of(weights, sets)
        for r, row in enumerate(weights.astype(int)):
            often = np.repeat(np.arange(len(scores)), row)
            for q, used in enumerate(sets):
                expected = reference.tpr_at_fpr(
                    matrix[used][:, often].ravel(), membership[used][:, often].ravel(), fpr
                )
                assert together[r, q] == pytest.approx(expected, abs=1e-12)


def test_equal_infinite_scores_are_one_group():
    scores = np.array([np.inf, np.inf, np.inf, 1, 0, -np.inf, -np.inf])
    member = np.array([True, False, False, True, True, False, True])
    (ranking,) = Rankings(scores[None], member[None])
    assert ranking.auc(np.ones((1, 7)))[0] == pytest.approx(metrics.auc(scores, member))
    assert metrics.oracle_thresholds(Rankings(scores[None], member[None])) == 0


def test_nobody_called_a_member_has_no_ppv():
    with pytest.raises(Refusal, match="nobody"):
        metrics.ppv(np.zeros((1, 4), dtype=bool), np.array([[True, True, False, False]]), 1)


@pytest.mark.parametrize("seed", range(20))
def test_threshold_of_a_false_positive_rate(seed):
    """The lowest score that at most that share reaches."""
    scores = np.random.default_rng(seed).normal(size=(3, 57)).round(seed % 3)
    for row, found in zip(scores, metrics.quantile_thresholds(scores, 0.1), strict=True):
        allowed = [value for value in row if (row >= value).mean() <= 0.1]
        assert found == min(allowed, default=math.inf)


def test_circular_roc():
    """Scores whose ROC is a quarter circle: AUC = pi / 4."""
    u = (np.arange(20_000) + 0.5) / 20_000
    scores = np.concatenate([1 - u, np.sqrt(1 - u**2)])  # FPR(s) = 1 - s ; TPR(s) = sqrt(1 - s^2)
    member = np.arange(40_000) >= 20_000
    fpr, tpr = metrics.roc(scores, member)
    assert np.abs((1 - fpr) ** 2 + tpr**2 - 1).max() < 1e-3
    assert metrics.auc(scores, member) == pytest.approx(math.pi / 4, abs=1e-3)


@pytest.mark.parametrize("few", [10**9, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_points_of_a_long_roc_are_points_of_the_whole(few, ties, monkeypatch):
    """Each is the best of its false positive rate."""
    rng = np.random.default_rng(3)
    member = rng.random((4, 5000)) < 0.5
    scores = (rng.normal(size=(4, 5000)) + member).round(1 if ties else 12)
    monkeypatch.setattr(metrics, "ROC_POINTS", 10**6)
    whole = {*zip(*metrics.roc(scores, member), strict=True)}
    monkeypatch.setattr(metrics, "ROC_POINTS", 200)
    monkeypatch.setattr(metrics, "ROC_SORTED", few)
    fpr, tpr = metrics.roc(scores, member)
    assert len(fpr) <= 201
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert max(tpr[fpr == 0]) == max(hit for rate, hit in whole if rate == 0)
    assert set(zip(fpr, tpr, strict=True)) <= whole
    # The last of the whole up to each false positive rate.
    rates, hits = map(np.array, zip(*sorted(whole), strict=True))
    for rate in set(fpr):
        best = hits[np.searchsorted(rates, rate, side="right") - 1]
        assert tpr[fpr == rate].max() == best


def test_constant_scores_know_nothing():
    member = np.arange(4000) % 2 == 0
    scores = np.zeros(4000)
    assert metrics.auc(scores, member) == 0.5
    assert tpr(scores, member, 0.01) == 0.0  # one group: taking it means FPR 1
    assert oracle(scores, member) == 0


def test_order_of_ties_does_not_matter():
    member = np.array([True] * 1000 + [False] * 1000)
    scores = np.ones(2000)
    assert tpr(scores, member, 0.01) == tpr(scores, member[::-1], 0.01) == 0.0


@pytest.mark.parametrize(
    ("outside", "fpr", "refused"),
    [(999, 0.01, True), (1000, 0.01, False), (1000, 0.001, True), (10_000, 0.001, False)],
)
def test_tpr_is_refused_where_non_members_cannot_resolve_it(outside, fpr, refused):
    if refused:
        with pytest.raises(Refusal, match="non-members"):
            metrics.require_non_members(outside, fpr)
    else:
        metrics.require_non_members(outside, fpr)


@pytest.mark.parametrize("candidates", [2**16, 64])
def test_best_threshold_is_the_best_one_of_the_shadows(candidates, monkeypatch):
    """Of every distinct score; with fewer candidates than those, one nearly as good."""
    monkeypatch.setattr(metrics, "THRESHOLDS", candidates)
    rng = np.random.default_rng(1)
    membership = rng.random((6, 300)) < 0.5
    scores = np.round(rng.normal(size=(6, 300)) + membership, 2)
    chosen = ~np.eye(6, dtype=bool)
    for shadows, found in zip(
        chosen, metrics.best_thresholds(Rankings(scores, membership), chosen), strict=True
    ):
        pool, inside = scores[shadows].ravel(), membership[shadows].ravel()
        best = reference.best_threshold(pool, inside)
        if candidates > len(np.unique(scores)):
            assert found == best
        gain = (pool >= found)[inside].mean() - (pool >= found)[~inside].mean()
        assert gain == pytest.approx(
            reference.best_advantage(pool, inside), abs=2 / candidates + 1e-12
        )


def test_best_threshold_reads_chosen_models_only():
    rng = np.random.default_rng(0)
    scores, membership = rng.normal(size=(6, 300)), rng.random((6, 300)) < 0.5
    flipped = membership.copy()
    flipped[2] = ~flipped[2]
    chosen = ~np.eye(6, dtype=bool)
    before, after = (
        metrics.best_thresholds(Rankings(scores, table), chosen)[2]
        for table in (membership, flipped)
    )
    assert before == after


def test_recalls_are_shares_of_members():
    rng = np.random.default_rng(11)
    right, other, member = (rng.random((3, 60)) < 0.5 for _ in range(3))
    codes = rng.integers(0, 3, 60)
    codes[member.all(axis=0)] = 0
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    recalls = metrics.recalls(right, member).of(weights)
    balanced = metrics.balanced_recalls(right, member, codes).of(weights)
    gains = metrics.recall_gains(right, other, member).of(weights)
    for r, t in itertools.product(range(4), range(3)):
        of = weights[r] * member[t]
        assert recalls[r, t] == pytest.approx((of * right[t]).sum() / of.sum())
        each = [
            (of * right[t])[codes == code].sum() / of[codes == code].sum()
            for code in range(3)
            if of[codes == code].sum() > 0
        ]
        assert balanced[r, t] == pytest.approx(np.mean(each))
        assert gains[r, t] == pytest.approx((of * right[t] - of * other[t]).sum() / of.sum())
