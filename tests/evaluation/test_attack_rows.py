"""Tests of evaluation.attack_rows."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from dptrain.attacks.scores import Scores
from dptrain.core import streams
from dptrain.evaluation import (
    attack_rows,
    intervals,
    metrics,
    one_run,
    thresholds,
)
from dptrain.evaluation.evaluate import evaluate
from dptrain.evaluation.rankings import Rankings
from dptrain.evaluation.rows import Subject
from dptrain.evaluation.thresholds import AttackScores
from dptrain.privacy import gaussian, pld
from dptrain.privacy.pld import TradeOff
from tests.fleets import fleet, rich
from tests.helpers.attacks import SUBJECT, matrix, rows
from tests.helpers.subjects import CLAIMED, CLAIMED_DELTA


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_handful_of_examples_contradicts_nothing(size):
    """Every order of members and non-members of a null target: none may contradict even the claim
    that nothing leaks.
    """
    scores = np.arange(2 * size, dtype=float)
    worst = 0.0
    for members in itertools.combinations(range(2 * size), size):
        member = np.isin(np.arange(2 * size), members)[None]
        if metrics.auc(scores, member[0]) < 0.9:
            continue
        at = intervals.fleet_interval(metrics.aucs(Rankings(scores[None], member)), member, (0, 1))
        worst = max(worst, at(1 - 2 * attack_rows.ALARM).low)
    assert worst < 0.5


def test_rows_name_the_oracle_and_refuse_low_fprs():
    found = rows(fleet(examples=120, leak=1.0))
    assert {
        "auc",
        "advantage",
        "balanced_accuracy",
        "advantage_oracle",
        "balanced_accuracy_per_class",
        "ppv_1_to_100",
    } <= set(found)
    assert found["advantage_oracle"].estimate >= found["advantage"].estimate
    assert found["balanced_accuracy"].estimate == pytest.approx(
        (1 + found["advantage"].estimate) / 2
    )
    refused = found["tpr_at_fpr_0.001"]
    assert refused.estimate is None
    assert "10,000 non-members" in refused.note


def test_ppv_falls_with_the_prior_and_is_one_half_without_a_leak():
    leaky, sound = rows(fleet(examples=600, leak=2.0)), rows(fleet(examples=600))
    assert (
        leaky["ppv_1_to_1"].estimate
        > leaky["ppv_1_to_10"].estimate
        > leaky["ppv_1_to_100"].estimate
    )
    assert sound["ppv_1_to_1"].low < 0.5 < sound["ppv_1_to_1"].high
    assert sound["ppv_1_to_10"].estimate == pytest.approx(1 / 11, abs=0.03)


def test_measured_above_proved_is_a_contradiction():
    """A perfect leak under a proof of no leak must be called one; an honest null must not."""
    proof = TradeOff(np.array([0.0]), np.array([0.02]), np.array([0.02]))
    leaky, sound = fleet(models=16, examples=900, leak=8.0), fleet(models=16, examples=900)
    for metric in ("auc", "advantage", "epsilon_one_run"):
        assert rows(leaky, proof)[metric].contradicted
    # Chosen on what it is reported on: it may lie above the proof, which then must not stand there.
    for metric in ("advantage_oracle", "balanced_accuracy_oracle", "advantage_oracle_per_class"):
        assert not rows(leaky, proof)[metric].contradicted
        assert rows(leaky, proof)[metric].ceiling is None
    assert not any(row.contradicted for row in rows(sound, proof).values())
    noisy = (
        np.where(leaky.membership, 1.0, 0.0)[::2]
        + np.random.default_rng(0).normal(size=(8, 900)) * 0.1
    )
    assert attack_rows.blind_row(noisy, leaky.membership[::2]).contradicted


@pytest.mark.long
def test_the_lower_median_of_many_targets_covers_the_truth():
    """Gaussian scores of known epsilon 1 for 6 targets whose examples are shared: 200 fleets, at
    most 27 above it (1e-6 of Binomial(200, .05)).
    """
    mu, above = gaussian.mu_of(1.0, 1e-5), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = rng.random((6, 200)) < 0.5
        matrix = (
            np.sqrt(0.5) * rng.normal(size=200)
            + np.sqrt(0.5) * rng.normal(size=(6, 200))
            + mu * member
        )
        scores = Scores(None, np.zeros(200, dtype=int), member, given_loss=np.ones((6, 200, 1)))
        examples = thresholds.ScoredExamples(scores, thresholds.AttackScores(matrix), None)
        sheet = attack_rows._Sheet(SUBJECT, "a", examples, "")
        sheet.add_bound("one_run")
        [row] = sheet.rows
        assert row.low == row.estimate
        above += row.estimate > 1.0
    assert above <= 27


def test_canaries_that_a_target_holds_all_of_are_refused():
    scores = fleet(models=8, examples=100)
    canaries = np.arange(100) < 1
    found = evaluate(SUBJECT, scores, {"loss": {}}, ("one_run",), canaries=canaries)
    assert all(
        row.estimate is None and "no non-members" in row.note
        for row in found.rows
        if row.examples == "canaries"
    )


def test_one_target_has_an_interval_over_examples():
    scores = fleet(models=16, examples=300, leak=1.0)
    one = Scores(scores.logits, scores.labels, scores.membership, targets=(3,))
    found = rows(one, attack="lira")
    row = found["auc"]
    assert (row.targets, row.n_in) == (1, scores.membership[3].sum())
    assert 0 < row.low < row.estimate < row.high < 1
    assert "over examples only" in row.note
    every = rows(scores, attack="lira")["auc"]
    assert row.estimate == pytest.approx(
        metrics.auc(matrix(scores, "lira")[3], scores.membership[3])
    )
    assert every.low < row.high


def test_two_targets_are_enough_for_a_contradiction():
    """Student's quantile with one degree of freedom is 3e5 at 1e-6: no interval of two targets by
    themselves ends below 1.
    """
    rng = np.random.default_rng(0)
    member = streams.memberships(2, 60, streams.seeded_key(0, "two"))
    scores = Scores(rng.normal(size=(2, 60, 1, 3)), rng.integers(0, 3, 60), member)
    matrix = member + rng.normal(size=(2, 60)) * 0.3
    curve = pld.claimed_trade_off(0.1, 1e-5)
    subject = Subject("s", "dpsgd", 0.1, 1e-5, 0.1, curve)
    rows = attack_rows.attack_rows(subject, "loss", AttackScores(matrix), scores, ())
    assert next(row for row in rows if row.metric.name == "auc").contradicted
    chance = attack_rows.attack_rows(
        subject, "loss", AttackScores(rng.normal(size=(2, 60))), scores, ()
    )
    assert not any(row.contradicted for row in chance)


@pytest.mark.parametrize("attack", ["attack_r", "attack_p", "correctness"])
def test_a_rate_below_the_resolution_of_an_attack_is_refused(attack):
    scores = rich(models=16, examples=3000, population=50, leak=2.0, queries=1, copies=2)
    rows = {
        row.metric.name: row
        for row in attack_rows.attack_rows(
            CLAIMED, attack, thresholds.run(scores, attack, {}), scores, ()
        )
    }
    assert rows["auc"].estimate > 0.5
    assert rows["tpr_at_fpr_0.01"].estimate is None
    assert "cannot resolve FPR 0.01" in rows["tpr_at_fpr_0.01"].note


def bounds_row(member, matrix, scores):
    rows = attack_rows.attack_rows(CLAIMED, "loss", AttackScores(matrix), scores, ("one_run",))
    return next(row for row in rows if row.metric.name == "epsilon_one_run")


def test_of_several_bounds_the_lower_median_counts_each_at_half_the_error():
    rng = np.random.default_rng(0)
    member = streams.memberships(4, 400, streams.seeded_key(0, "median"))
    scores = Scores(rng.normal(size=(4, 400, 1, 2)), np.zeros(400, dtype=int), member)
    strength = np.array([0.0, 1.5, 3.0, 5.0])
    matrix = rng.normal(size=(4, 400)) + strength[:, None] * member
    each = sorted(
        one_run.from_one_run(row, mine, CLAIMED_DELTA, "one_run", 0.975).epsilon
        for row, mine in zip(matrix, member, strict=True)
    )
    assert each[1] < each[2]
    assert bounds_row(member, matrix, scores).estimate == pytest.approx(each[1])


@pytest.mark.parametrize(("leaking", "refuted"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_claim_is_judged_by_the_median_of_its_targets(leaking, refuted):
    """By the p-values of the proved epsilon, as by the bounds at the same confidence."""
    rng = np.random.default_rng(0)
    member = streams.memberships(4, 400, streams.seeded_key(0, "median"))
    scores = Scores(rng.normal(size=(4, 400, 1, 2)), np.zeros(400, dtype=int), member)
    matrix = rng.normal(size=(4, 400)) + 8 * (np.arange(4) < leaking)[:, None] * member
    proved = replace(CLAIMED, proved=1.0)
    rows = attack_rows.attack_rows(proved, "loss", AttackScores(matrix), scores, ("one_run",))
    row = next(row for row in rows if row.metric.name == "epsilon_one_run")
    assert row.contradicted == refuted
    p = [one_run.p_value(*pair, 1.0, CLAIMED_DELTA) for pair in zip(matrix, member, strict=True)]
    assert (np.array(p) < 5e-4).sum() == leaking


@pytest.mark.parametrize(
    ("targets", "examples", "leak", "epsilon"), [(1, 2000, 1, 1), (4, 4000, 2, 2)]
)
def test_a_claim_is_refuted_by_a_moderate_leak(targets, examples, leak, epsilon):
    """For which the guesses that bound epsilon best at 95 % are too few to be sure of."""
    refuted = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        member = rng.random((targets, examples)) < 0.5
        scores = Scores(
            rng.normal(size=(targets, examples, 1, 2)), np.zeros(examples, dtype=int), member
        )
        matrix = rng.normal(size=(targets, examples)) + leak * member
        subject = replace(CLAIMED, proved=float(epsilon))
        rows = attack_rows.attack_rows(subject, "loss", AttackScores(matrix), scores, ("one_run",))
        refuted += next(row for row in rows if row.metric.name == "epsilon_one_run").contradicted
    assert refuted >= 5


def test_a_true_claim_is_not_refuted():
    """Randomised response of epsilon 1, whose scores are the answers: the p-value of its epsilon
    lies below a with probability at most a. 62 is the 1e-6 limit of Binomial(300, .1).
    """
    assert stats.binom.sf(62, 300, 0.1) < 1e-6
    low = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        member = rng.random(1000) < 0.5
        truth = rng.random(1000) < special.expit(1.0)
        scores = np.where(truth, member, ~member) + rng.random(1000) / 10
        low += one_run.p_value(scores, member, 1.0, 0.0) < 0.1
    assert 0 < low <= 62
