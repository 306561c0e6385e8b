"""Attacks against slow twins, under the null, and on a planted leak."""

import numpy as np
import pytest

from dptrain import judge, metrics, sampling
from dptrain.accounting import TradeOff
from dptrain.attacks import ATTACKS
from dptrain.attacks.blind import blind
from dptrain.attacks.lira import choose_variance, lira
from dptrain.types import Mechanism, Recipe, Refusal, Sampling, Scores, Setting
from tests import reference

MECHANISM = Mechanism(Sampling.POISSON, 10, 100, 10, 1.0, 1.0, 10)
SETTING = Setting("dpsgd-1", "dpsgd", 1.0, 1e-5, MECHANISM, Recipe(0.1))


def fleet(models=8, examples=40, classes=3, seed=0, leak=0.0):
    """Scores of models whose logit of the true class rises by `leak` on members."""
    rng = np.random.default_rng(seed)
    membership = sampling.memberships(models, examples, sampling.seeded_key(seed, "test"))
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(size=(1, examples, 1, classes)) + rng.normal(size=(models, examples, 1, classes))
    logits[:, np.arange(examples), 0, labels] += leak * membership
    return Scores(logits, labels, membership)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", ["global", "per_example"])
@pytest.mark.parametrize("seed", range(5))
def test_lira_equals_its_slow_twin(online, variance, seed):
    scores = fleet(seed=seed, leak=1.0)
    for target in (0, 5):
        fast = lira(scores, target, online=online, variance=variance)
        slow = reference.lira(scores.logits[:, :, 0], scores.labels, scores.membership, target, online, variance)
        np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)


def test_variance_is_chosen_by_the_number_of_shadows():
    assert choose_variance("auto", 63) == "global"
    assert choose_variance("auto", 64) == "per_example"
    assert choose_variance("global", 1000) == "global"
    with pytest.raises(ValueError, match="per_example"):
        choose_variance("individual", 10)


def test_phi_and_loss_survive_extreme_logits():
    logits = np.array([[[[800.0, 0.0, -800.0]], [[0.0, 1e-9, 0.0]]]])
    scores = Scores(logits, np.array([0, 1]), np.array([[True, False]]))
    assert scores.phi[0, 0, 0] == pytest.approx(800.0)
    assert scores.loss[0, 0] == pytest.approx(0.0)
    assert scores.phi[0, 1, 0] == pytest.approx(reference.phi([0.0, 1e-9, 0.0], 1), abs=1e-12)
    flipped = Scores(logits, np.array([2, 1]), np.array([[True, False]]))
    assert flipped.loss[0, 0] == pytest.approx(1600.0)


def test_shadows_leave_out_the_target_and_its_complement():
    scores = fleet(models=8)
    for target in range(8):
        chosen = scores.shadows(target)
        assert chosen.sum() == 6
        assert not chosen[target]
        assert not chosen[target ^ 1]
        counts = scores.membership[chosen].sum(axis=0)
        assert (counts == 3).all()  # so a count of shadows tells nothing about the target


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_reads_the_targets_membership(attack):
    scores = fleet(examples=60, leak=1.0)
    before = ATTACKS[attack](scores, 2)
    membership = scores.membership.copy()
    membership[2:4] = membership[[3, 2]]  # target and complement change places
    after = ATTACKS[attack](Scores(scores.logits, scores.labels, membership), 2)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("attack", ATTACKS)
def test_planted_leak_is_found_the_right_way_up(attack):
    aucs = []
    for seed in range(5):
        scores = fleet(examples=200, seed=seed, leak=8.0)
        aucs.append(metrics.aucs(judge.attack_matrix(scores, attack, {}), scores.membership).mean())
    assert min(aucs) > 0.95


@pytest.mark.parametrize("attack", ATTACKS)
def test_null_is_a_coin(attack):
    """Memberships that no model knows. The mean AUC over 40 fleets is .5 within 4.89 standard errors (false alarms 1e-6)."""
    means = []
    for seed in range(40):
        scores = fleet(models=8, examples=150, seed=seed)
        means.append(metrics.aucs(judge.attack_matrix(scores, attack, {}), scores.membership).mean())
    assert abs(np.mean(means) - 0.5) < 4.89 * np.std(means, ddof=1) / np.sqrt(40) + 1e-9


def test_complement_as_a_shadow_would_leak():
    """The broken variant: with the complement among the shadows, the count of in-models alone gives membership away."""
    scores = fleet()
    target = 4
    others = np.arange(8) != target
    count = scores.membership[others].sum(axis=0)
    assert metrics.auc(-count.astype(float), scores.membership[target]) == 1.0


@pytest.mark.parametrize(("models", "attack"), [(2, "lira"), (4, "lira"), (4, "lira_offline"), (2, "shadow")])
def test_too_few_shadows_are_refused(models, attack):
    with pytest.raises(Refusal, match="models_per_setting"):
        judge.attack_matrix(fleet(models=models), attack, {})


def test_shadow_uses_classes_of_their_own_where_counts_allow():
    scores = fleet(models=8, examples=300, classes=2, leak=2.0)
    own = ATTACKS["shadow"](scores, 0)
    assert metrics.auc(own, scores.membership[0]) > 0.6
    few = fleet(models=4, examples=30, classes=3, leak=4.0)  # too few records a class: one classifier for all
    assert metrics.auc(ATTACKS["shadow"](few, 0), few.membership[0]) > 0.7


def test_scores_refuse_what_does_not_fit():
    good = fleet()
    with pytest.raises(ValueError, match="finite"):
        Scores(good.logits * np.nan, good.labels, good.membership)
    with pytest.raises(ValueError, match="labels"):
        Scores(good.logits, good.labels + 5, good.membership)
    with pytest.raises(ValueError, match="membership"):
        Scores(good.logits, good.labels, good.membership[:, :5])
    with pytest.raises(ValueError, match="queries"):
        Scores(good.logits[:, :, 0], good.labels, good.membership)


def test_blind_baseline_finds_a_leaky_split_and_nothing_else():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(800, 5)), rng.integers(0, 3, 800)
    fair = np.array([metrics.auc(blind(inputs, labels, m), m) for m in rng.random((20, 800)) < 0.5])
    assert abs(fair.mean() - 0.5) < 4.89 * fair.std(ddof=1) / np.sqrt(20)
    assert metrics.auc(blind(inputs, labels, inputs[:, 2] > 0), inputs[:, 2] > 0) > 0.95


def rows(scores, ceiling=None, attack="loss"):
    return {row.metric: row for row in judge.attack_rows(SETTING, attack, judge.attack_matrix(scores, attack, {}), scores, ceiling, "")}


def test_rows_name_the_oracle_and_refuse_low_fprs():
    found = rows(fleet(examples=120, leak=1.0))
    assert {"auc", "advantage", "balanced_accuracy", "advantage_oracle", "balanced_accuracy_oracle"} <= set(found)
    assert found["advantage_oracle"].estimate >= found["advantage"].estimate
    assert found["balanced_accuracy"].estimate == pytest.approx((1 + found["advantage"].estimate) / 2)
    refused = found["tpr_at_fpr_0.001"]
    assert refused.estimate is None
    assert "10,000 non-members" in refused.note


def test_measured_above_proved_is_a_contradiction():
    """A perfect leak under a proof of no leak must be called one; an honest null must not."""
    grid = np.linspace(0, 1, 101)
    proof = TradeOff(grid, np.minimum(1, grid + 0.02), 0.02)
    leaky, sound = fleet(models=16, examples=300, leak=8.0), fleet(models=16, examples=300)
    assert rows(leaky, proof)["auc"].contradicted
    assert rows(leaky, proof)["advantage"].contradicted
    assert not any(row.contradicted for row in rows(sound, proof).values())
    blind_row = judge.blind_row(
        np.where(leaky.membership, 1.0, 0.0)[::2] + np.random.default_rng(0).normal(size=(8, 300)) * 0.1, leaky.membership[::2]
    )
    assert blind_row.contradicted
