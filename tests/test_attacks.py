"""Attacks against slow twins, under the null, and on a planted leak."""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest

from dptrain import assess, attacks, audit, guesses, judge, metrics
from dptrain.accounting import TradeOff
from dptrain.attacks import ATTACKS
from dptrain.attacks.blind import blind
from dptrain.attacks.lira import choose_variance
from dptrain.judge import Subject
from dptrain.scores import Scores
from dptrain.types import ConfigError, Refusal
from tests import reference
from tests.fleets import fleet, rich

SUBJECT = Subject("dpsgd-1", "dpsgd", 1.0, 1e-5)
OPTIONS = {
    "difficulty": [{"reference": "out"}, {"reference": "both"}, {"signal": "logit"}, {"reference": "both", "signal": "logit"}],
    "lira": [{"variance": "global"}, {"variance": "per_example"}, {"variance": "shrunk"}, {}],
    "lira_offline": [{"variance": "global"}, {"variance": "per_example"}],
    "rmia": [{"gamma": 2.0}, {"gamma": 1.0}],
    "rmia_offline": [{"gamma": 2.0, "a": 0.3}, {"gamma": 1.0, "a": 1.0}],
    "info_rmia_offline": [{"a": 0.3}, {"a": 1.0}],
    "label_only": [{"copies": "noisy"}, {"copies": "augmented"}],
    "quantile": [{"alpha": 0.05}, {"alpha": 0.3}],
}
FIXTURES = 200


def matrix(scores, attack, options=None):
    return guesses.run(scores, attack, options or {}).matrix


def mean_auc(matrix, membership):
    return np.mean([metrics.auc(*pair) for pair in zip(matrix, membership, strict=True)])


@functools.cache
def fixture(seed):
    """Scores and their twin; fixtures differ in size, classes and queries."""
    scores = rich(seed, models=6 + 2 * (seed % 2), examples=10 + seed % 5, queries=1 + seed % 2, classes=2 + seed % 3, leak=(seed % 3) / 2)
    return scores, reference.Twin(scores)


def test_every_attack_has_a_twin():
    assert set(reference.TWINS) == set(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_equals_its_slow_twin(attack):
    for seed in range(FIXTURES if attack != "quantile" else FIXTURES // 20):  # its trees take a tenth of a second; the rest under -m slow
        scores, twin = fixture(seed)
        for options in OPTIONS.get(attack, [{}])[seed % 2 :: 2] or [{}]:
            fast = ATTACKS[attack](scores, seed % scores.models, **options)
            slow = reference.TWINS[attack](twin, seed % scores.models, **options)
            np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9, err_msg=f"fixture {seed}, {options}")


@pytest.mark.slow
def test_quantile_equals_its_slow_twin_everywhere():
    for seed in range(FIXTURES):
        scores, twin = fixture(seed)
        np.testing.assert_allclose(ATTACKS["quantile"](scores, 0), reference.quantile(twin, 0), rtol=1e-9, atol=1e-9)


def test_rmia_falls_back_on_the_pool():
    scores = fleet(models=8, examples=30, leak=1.0)
    assert scores.population is None
    fast = ATTACKS["rmia"](scores, 3)
    np.testing.assert_allclose(fast, reference.TWINS["rmia"](reference.Twin(scores), 3), rtol=1e-9)
    assert "pool" in guesses.variant(scores, "rmia", {"gamma": 2.0})


def test_variance_is_chosen_by_the_kind_of_attack():
    assert choose_variance("auto", online=True) == "shrunk"
    assert choose_variance("auto", online=False) == "global"
    assert choose_variance("global", online=True) == "global"
    with pytest.raises(ValueError, match="per_example"):
        choose_variance("individual", online=True)


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
    scores = rich(examples=60, models=8, leak=1.0)
    before = ATTACKS[attack](scores, 2)
    membership = scores.membership.copy()
    membership[2:4] = membership[[3, 2]]  # target and complement change places
    after = ATTACKS[attack](replace(scores, membership=membership), 2)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("attack", ATTACKS)
def test_planted_leak_is_found_the_right_way_up(attack):
    """24 models, since attack R with K shadows out comes to 1 - 1 / (2 K + 2) at best."""
    aucs = []
    for seed in range(3):
        scores = rich(models=24, examples=150, queries=1, classes=10, seed=seed, leak=12.0)
        aucs.append(mean_auc(matrix(scores, attack), scores.membership))
    assert min(aucs) > (0.9 if attack in ("correctness", "quantile", "label_only", "entropy") else 0.95)


@pytest.mark.parametrize("attack", ATTACKS)
def test_null_is_a_coin(attack):
    """Memberships that no model knows. The mean AUC over 40 fleets is .5 within 4.89 standard errors (false alarms 1e-6)."""
    means = []
    for seed in range(40 if attack != "quantile" else 8):
        scores = rich(models=8, examples=100, seed=seed)
        means.append(mean_auc(matrix(scores, attack), scores.membership))
    assert abs(np.mean(means) - 0.5) < 4.89 * np.std(means, ddof=1) / np.sqrt(len(means)) + 1e-9


def test_complement_as_a_shadow_would_leak():
    """The broken variant: with the complement among the shadows, the count of in-models alone gives membership away."""
    scores = fleet()
    target = 4
    others = np.arange(8) != target
    count = scores.membership[others].sum(axis=0)
    assert metrics.auc(-count.astype(float), scores.membership[target]) == 1.0


def balanced(models, examples, rng):
    """Every example in half of the models, without pairs, as other people lay their fleets out."""
    return (rng.random((models, examples)).argsort(axis=0) < models // 2).astype(bool)


@pytest.mark.parametrize("models", [8, 16])
@pytest.mark.parametrize("attack", ["difficulty", "attack_r", "lira", "lira_offline", "rmia", "rmia_offline"])
def test_counts_of_shadows_say_nothing_about_a_target(attack, models):
    """A target that knows nothing, among shadows that remember everything: .5 within 4.89 standard errors over 40 fleets (1e-6), though every
    example is in exactly half of all models. The broken variant reads all shadows, and is far off."""
    found, broken = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plain = fleet(models=models, examples=300, seed=seed)
        membership = balanced(models, 300, rng)
        logits = plain.logits.copy()
        logits[1:, np.arange(300), 0, plain.labels] += 6.0 * membership[1:]
        scores = Scores(logits, plain.labels, membership, targets=(0,))
        found.append(metrics.auc(ATTACKS[attack](scores, 0), membership[0]))
        inside, outside = scores.references(0)
        assert len(np.unique(inside.sum(axis=0))) == len(np.unique(outside.sum(axis=0))) == 1
        broken.append(metrics.auc(-membership[1:].sum(axis=0), membership[0]))
    assert abs(np.mean(found) - 0.5) < 4.89 * np.std(found, ddof=1) / np.sqrt(40) + 1e-9
    assert min(broken) == 1.0


def test_models_with_the_targets_own_split_are_no_shadows():
    plain = fleet(models=8, examples=50)
    membership = plain.membership.copy()
    membership[4], membership[5] = membership[0], membership[1]
    assert list(np.flatnonzero(Scores(plain.logits, plain.labels, membership).shadows(0))) == [2, 3, 6, 7]


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_handful_of_examples_contradicts_nothing(size):
    """Every order of members and non-members of a null target: none may contradict even the claim that nothing leaks."""
    scores = np.arange(2 * size, dtype=float)
    worst = 0.0
    for members in itertools.combinations(range(2 * size), size):
        member = np.isin(np.arange(2 * size), members)[None]
        if metrics.auc(scores, member[0]) < 0.9:
            continue
        at = metrics.fleet_interval(metrics.aucs(metrics.rankings(scores[None], member)), member, (0, 1))
        worst = max(worst, at(1 - 2 * judge.ALARM).low)
    assert worst < 0.5


@pytest.mark.parametrize(("models", "attack"), [(2, "lira"), (4, "lira"), (4, "lira_offline"), (2, "shadow")])
def test_too_few_shadows_are_refused(models, attack):
    with pytest.raises(Refusal, match="models_per_setting"):
        matrix(fleet(models=models), attack)


@pytest.mark.parametrize(
    "attack", ["attack_p", "quantile", "merlin", "morgan", "label_only", "gradient_norm", "gradient_canary", "trajectory"]
)
def test_what_is_not_there_is_refused(attack):
    with pytest.raises(Refusal, match="needs"):
        matrix(fleet(), attack)


def test_losses_alone_serve_the_attacks_that_read_losses():
    whole = replace(rich(models=8, examples=60, queries=1, leak=1.0), population=None)
    alone = Scores(None, whole.labels, whole.membership, given_loss=whole.losses)
    np.testing.assert_allclose(alone.phi, whole.phi, rtol=1e-9)
    for attack in ("loss", "confidence", "difficulty", "attack_r", "lira", "rmia"):
        np.testing.assert_allclose(matrix(alone, attack), matrix(whole, attack), rtol=1e-6, atol=1e-9)
    for attack in ("correctness", "entropy", "modified_entropy", "shadow"):
        with pytest.raises(Refusal, match="needs logits"):
            matrix(alone, attack)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lyra": {}}, "attacks.lyra: unknown attack"),
        ({"lira": {"variances": "auto"}}, "attacks.lira.variances: unknown option"),
        ({"lira": {"variance": "own"}}, "attacks.lira.variance: unknown value"),
        ({"lira": {"online": False}}, "attacks.lira.online: unknown option"),
        ({"rmia": {"gamma": 0}}, "attacks.rmia.gamma: must be a number"),
        ({"rmia_offline": {"a": 1.5}}, "attacks.rmia_offline.a: must be a number"),
        ({"quantile": {"alpha": "x"}}, "attacks.quantile.alpha: must be a number"),
        ({"label_only": {"copies": "blurred"}}, "attacks.label_only.copies: unknown value"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        attacks.check(options)
    attacks.check({"rmia_offline": {"gamma": 1.0, "a": 0}})


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


def rows(scores, curve=None, attack="loss", **how):
    subject = Subject("dpsgd-1", "dpsgd", 1.0, 1e-7, 1.0 if curve else None, curve)
    found = judge.attack_rows(subject, attack, guesses.run(scores, attack, {}), scores, ("one_run",), **how)
    return {row.metric: row for row in found}


def test_rows_name_the_oracle_and_refuse_low_fprs():
    found = rows(fleet(examples=120, leak=1.0))
    assert {"auc", "advantage", "balanced_accuracy", "advantage_oracle", "balanced_accuracy_per_class", "ppv_1_to_100"} <= set(found)
    assert found["advantage_oracle"].estimate >= found["advantage"].estimate
    assert found["balanced_accuracy"].estimate == pytest.approx((1 + found["advantage"].estimate) / 2)
    refused = found["tpr_at_fpr_0.001"]
    assert refused.estimate is None
    assert "10,000 non-members" in refused.note


def test_ppv_falls_with_the_prior_and_is_one_half_without_a_leak():
    leaky, sound = rows(fleet(examples=600, leak=2.0)), rows(fleet(examples=600))
    assert leaky["ppv_1_to_1"].estimate > leaky["ppv_1_to_10"].estimate > leaky["ppv_1_to_100"].estimate
    assert sound["ppv_1_to_1"].low < 0.5 < sound["ppv_1_to_1"].high
    assert sound["ppv_1_to_10"].estimate == pytest.approx(1 / 11, abs=0.03)


def test_thresholds_from_the_population_keep_their_false_positive_rate():
    """10 % of an alike population reach them, and so do about 10 % of the non-members."""
    scores = rich(models=8, examples=400, population=1000, seed=3)
    judged = guesses.run(scores, "loss", {})
    view = guesses.View(scores, judged, None)
    kinds = dict(view.guesses())
    assert {"", "per_class", "oracle", "oracle_per_class", "population", "population_per_class"} == set(kinds)
    for kind in ("population", "population_per_class"):
        rate = kinds[kind]()[~scores.membership].mean()
        assert abs(rate - 0.1) < 0.03
    assert "advantage_population" in rows(scores)


def test_a_threshold_per_class_helps_where_classes_differ():
    scores = fleet(models=8, examples=900, classes=3, leak=1.5, seed=1)
    shifted = scores.logits.copy()
    shifted[:, np.arange(900), 0, scores.labels] += 4.0 * scores.labels[None]  # the loss of every class has a range of its own
    found = rows(Scores(shifted, scores.labels, scores.membership))
    assert found["advantage_per_class"].low > found["advantage"].estimate


def test_measured_above_proved_is_a_contradiction():
    """A perfect leak under a proof of no leak must be called one; an honest null must not."""
    proof = TradeOff(np.array([0.0]), np.array([0.02]), np.array([0.02]))
    leaky, sound = fleet(models=16, examples=900, leak=8.0), fleet(models=16, examples=900)
    for metric in ("auc", "advantage", "epsilon_one_run"):
        assert rows(leaky, proof)[metric].contradicted
    assert not rows(leaky, proof)["advantage_oracle"].contradicted  # chosen on what it is reported on
    assert not any(row.contradicted for row in rows(sound, proof).values())
    noisy = np.where(leaky.membership, 1.0, 0.0)[::2] + np.random.default_rng(0).normal(size=(8, 900)) * 0.1
    assert judge.blind_row(noisy, leaky.membership[::2]).contradicted


def test_the_lower_median_of_many_targets_covers_the_truth():
    """Gaussian scores of known epsilon 1 for 6 targets whose examples are shared: 200 fleets, at most 27 above it (1e-6 of Binomial(200, .05))."""
    mu, above = audit.mu_of_epsilon(1.0, 1e-5), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = rng.random((6, 200)) < 0.5
        matrix = np.sqrt(0.5) * rng.normal(size=200) + np.sqrt(0.5) * rng.normal(size=(6, 200)) + mu * member
        scores = Scores(None, np.zeros(200, dtype=int), member, given_loss=np.ones((6, 200, 1)))
        row = judge._bound_row(SUBJECT, "a", "one_run", guesses.View(scores, guesses.Judged(matrix), None), "")
        assert row.low == row.estimate
        above += row.estimate > 1.0
    assert above <= 27


def test_canaries_that_a_target_holds_all_of_are_refused():
    scores = fleet(models=8, examples=100)
    canaries = np.arange(100) < 1
    found = assess.assess(SUBJECT, scores, {"loss": {}}, ("one_run",), canaries=canaries)
    assert all(row.estimate is None and "no non-members" in row.note for row in found.rows if row.examples == "canaries")


def test_canaries_have_rows_of_their_own():
    """Only the first 40 examples leak: the average hides it, their own rows do not."""
    plain = fleet(models=16, examples=400, seed=2)
    logits = plain.logits.copy()
    logits[:, np.arange(40), 0, plain.labels[:40]] += 8.0 * plain.membership[:, :40]
    scores = Scores(logits, plain.labels, plain.membership)
    canaries = np.arange(400) < 40
    found = assess.assess(SUBJECT, scores, {"loss": {}}, ("one_run",), canaries=canaries)
    by = {(row.examples, row.metric): row for row in found.rows}
    assert by["canaries", "auc"].estimate > 0.95
    assert by["all", "auc"].estimate < 0.6
    assert by["canaries", "auc"].n_in == plain.membership[:, :40].sum()
    assert by["canaries", "epsilon_one_run"].estimate > by["all", "epsilon_one_run"].estimate


def test_one_target_has_an_interval_over_examples():
    scores = fleet(models=16, examples=300, leak=1.0)
    one = Scores(scores.logits, scores.labels, scores.membership, targets=(3,))
    found = rows(one, attack="lira")
    row = found["auc"]
    assert (row.targets, row.n_in) == (1, scores.membership[3].sum())
    assert 0 < row.low < row.estimate < row.high < 1
    assert "over examples only" in row.note
    every = rows(scores, attack="lira")["auc"]
    assert row.estimate == pytest.approx(metrics.auc(matrix(scores, "lira")[3], scores.membership[3]))
    assert every.low < row.high


def test_separate_shadows_choose_the_threshold():
    """A target and a shadow that never saw each other's examples; the shadow's best threshold is applied to the target."""
    target, shadow = fleet(models=2, examples=400, leak=3.0, seed=5), fleet(models=2, examples=300, leak=3.0, seed=6)
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
