"""Attack numbers that a hostile reader once showed to be wrong. Each test fails on the code of before; the number is that of the finding."""

import numpy as np
import pytest
from scipy import stats

from dptrain import accounting, api, audit, exposure, guesses, judge, metrics, one_run, sampling
from dptrain.attacks import ATTACKS
from dptrain.guesses import Judged
from dptrain.judge import Subject
from dptrain.scores import Scores
from dptrain.types import Mechanism, Neighbouring, Sampling
from tests.fleets import fleet, rich

DELTA = 1e-5
SUBJECT = Subject("s", "dpsgd", 1.0, DELTA)


def lira_of(**given):
    rows = api.attack(given, attacks=["lira"], audits=[]).rows
    found = {row.metric: row for row in rows}
    return found["auc"], found["tpr_at_fpr_0.01"]


def sure_models(seed=0, models=16, examples=600):
    """Logits, labels and memberships of models that are so sure of many examples that rounding shows."""
    rng = np.random.default_rng(seed)
    member = sampling.memberships(models, examples, sampling.seeded_key(seed, "sure"))
    labels = rng.integers(0, 3, examples)
    easy = rng.normal(1.0, 2.0, examples)
    logits = rng.normal(size=(models, examples, 3)) * 0.3
    logits[:, np.arange(examples), labels] += easy + 1.2 * member + 0.5 * rng.normal(size=(models, examples))
    return logits, labels, member


def test_12_lira_on_rounded_probabilities():
    """Probabilities of 20 votes: many are exactly 0 or 1. A floor of 1e-12 put those 27 logits away, and read AUC .60 for .70."""
    logits, labels, member = sure_models()
    plain = np.exp(logits - logits.max(-1, keepdims=True))
    plain /= plain.sum(-1, keepdims=True)
    rng = np.random.default_rng(1)
    votes = np.stack([rng.multinomial(20, row) for row in plain.reshape(-1, 3)]).reshape(plain.shape) / 20
    labels_index = np.broadcast_to(labels[None, :, None], (*votes.shape[:2], 1))
    true = np.take_along_axis(votes, labels_index, -1)[..., 0]
    low = high = 1 / 40  # half a vote
    clipped = np.clip(true, low, 1 - high)
    by_hand = Scores(None, labels, member, -np.log(clipped)[:, :, None])
    want = np.mean([metrics.auc(ATTACKS["lira"](by_hand, t), member[t]) for t in range(16)])
    found, _ = lira_of(probabilities=votes, labels=labels, membership=member)
    assert found.estimate == pytest.approx(want, abs=1e-3)
    assert "rounded to 0 or 1" in found.note
    broken = Scores(None, labels, member, -np.log(np.clip(true, 1e-12, 1))[:, :, None])
    assert want > 0.03 + np.mean([metrics.auc(ATTACKS["lira"](broken, t), member[t]) for t in range(16)])


def test_12_lira_on_confidences_in_float32():
    """The floor at 1 is that of float32, not of float64: what is left of the attack does not drown in how far 1 is put away."""
    logits, labels, member = sure_models()
    logits[:, np.arange(600), labels] += 15  # most confidences round to 1
    exact = Scores(logits[:, :, None], labels, member)
    confidence = exact.confidence.astype(np.float32)
    share = float((confidence == 1).mean())
    assert 0.05 < share < 0.6
    found, _ = lira_of(confidence=confidence, membership=member)
    assert f"{share:.1%}" in found.note
    broken = Scores(None, labels, member, np.maximum(-np.log(confidence.astype(np.float64)), 2.0**-53)[:, :, None])
    assert found.estimate > 0.02 + np.mean([metrics.auc(ATTACKS["lira"](broken, t), member[t]) for t in range(16)])


def test_13_rmia_ranks_within_a_share():
    """40 z give 41 shares: TPR at 1 % read .000, though the ratios behind them tell members."""
    scores = rich(models=16, examples=2000, population=40, leak=4.0, queries=1, copies=2)
    matrix = np.stack([ATTACKS["rmia"](scores, t) for t in range(16)])
    assert len(np.unique(matrix[0])) > 1900
    member = scores.membership
    assert np.mean([metrics.Ranking(m, i).tpr(0.01, np.ones(2000)) for m, i in zip(matrix, member, strict=True)]) > 0.05
    # The order of the shares themselves stays what it was.
    share = np.floor(matrix * 41)
    assert (np.diff(share[0][np.argsort(matrix[0])]) >= 0).all()


def test_13_info_rmia_has_no_ties():
    scores = rich(models=16, examples=2000, population=40, leak=4.0, queries=1, copies=2)
    found = ATTACKS["info_rmia"](scores, 0)
    assert len(np.unique(found)) == 2000
    assert metrics.auc(found, scores.membership[0]) > 0.7


@pytest.mark.parametrize("attack", ["attack_r", "attack_p", "correctness"])
def test_13_a_rate_below_the_resolution_of_an_attack_is_refused(attack):
    scores = rich(models=16, examples=3000, population=50, leak=2.0, queries=1, copies=2)
    rows = {row.metric: row for row in judge.attack_rows(SUBJECT, attack, guesses.run(scores, attack, {}), scores, ())}
    assert rows["auc"].estimate > 0.5
    assert rows["tpr_at_fpr_0.01"].estimate is None
    assert "cannot resolve FPR 0.01" in rows["tpr_at_fpr_0.01"].note


def poisson_scores(q, sigma, steps, n, seed):
    """Log likelihood ratios of n outputs without the example, and of n with it: the best attack there is."""
    rng = np.random.default_rng(seed)

    def ratio(drawn):
        x = sigma * rng.normal(size=(n, steps)) + drawn
        return np.log(1 - q + q * np.exp((2 * x - 1) / (2 * sigma**2))).sum(1)

    return ratio(np.zeros((n, steps))), ratio((rng.random((n, steps)) < q).astype(float))


def test_14_the_ceiling_of_the_auc_is_that_of_members_against_non_members():
    curve = accounting.trade_off(Mechanism(Sampling.POISSON, 256, 1000, 10, 0.6, 1.0, 256))
    out, inside = poisson_scores(0.256, 0.6, 10, 200_000, 0)
    ranks = stats.rankdata(np.concatenate([inside, out]))[: len(inside)]
    reached = (ranks.sum() - len(inside) * (len(inside) + 1) / 2) / len(inside) / len(out)
    error = 4.89 * np.sqrt(0.25 / len(out))
    assert reached - error < curve.max_auc < reached + 0.004
    for fpr in (0.01, 0.1, 0.5):
        tpr = (inside > np.quantile(out, 1 - fpr)).mean()
        assert tpr - 0.006 < curve.max_tpr(fpr) < tpr + 0.012


def test_14_both_directions_hold():
    """Without sampling there is one; with it the curve lies below the symmetrised one, and above every attack."""
    whole = accounting.trade_off(Mechanism(Sampling.POISSON, 10, 10, 3, 2.0, 1.0, 10))
    np.testing.assert_array_equal(whole.deltas, whole.others)
    part = accounting.trade_off(Mechanism(Sampling.POISSON, 1, 10, 20, 1.0, 1.0, 1, Neighbouring.ADD_REMOVE))
    both = np.maximum(part.deltas, part.others)
    assert (part.tpr <= accounting.TradeOff(part.epsilons, both, both).tpr + 1e-12).all()
    assert (part.others < part.deltas - 1e-6).any()


@pytest.mark.parametrize(("epsilon", "m", "least"), [(10.0, 60_000, 4.6), (4.38, 20_000, 2.05)])
def test_15_one_run_with_a_number_of_guesses_chosen_on_a_quarter(epsilon, m, least):
    """Ten numbers of guesses, each paid for, came to 3.54 and 1.95."""
    mu = audit.mu_of_epsilon(epsilon, DELTA)
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        member = rng.random(m) < 0.5
        found.append(one_run.from_one_run(rng.normal(size=m) + mu * member, member, DELTA).epsilon)
    assert least < np.median(found) < epsilon


def test_15_clopper_pearson_at_fixed_ranks():
    """One half to choose and one half to try came to 1.14 and .48."""
    for m, least in ((2000, 1.2), (400, 0.6)):
        mu, found = audit.mu_of_epsilon(4.38, DELTA), []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            found.append(audit.from_scores(rng.normal(size=m // 2) + mu, rng.normal(size=m // 2), DELTA).epsilon)
        assert least < np.mean(found) < 4.38


@pytest.mark.parametrize("levels", [2, 5])
def test_15_ties_cost_no_coverage(levels):
    """Scores of few values, where many share a rank. At most 44 of 400 audits miss (1e-6 limit of Binomial(400, .05))."""
    epsilon, above = 1.0, 0
    p = 1 / (1 + np.exp(-epsilon))  # randomised response: exactly epsilon, with delta 0
    for seed in range(400):
        rng = np.random.default_rng([seed, levels])
        coarse = rng.integers(0, levels - 1, (2, 150))
        inside = np.where(rng.random(150) < p, coarse[0] + 1, 0)
        outside = np.where(rng.random(150) < p, 0, coarse[1] + 1)
        above += audit.from_scores(inside.astype(float), outside.astype(float), 0.0, seed=seed).epsilon > epsilon
    assert above <= 44


def heteroscedastic(models, seed=0, examples=1500, spread=0.6):
    """Scaled logits whose spread differs between examples."""
    rng = np.random.default_rng(seed)
    member = sampling.memberships(models, examples, sampling.seeded_key(seed, "spread"))
    size = np.exp(spread * rng.normal(size=examples))
    phi = rng.normal(size=examples) * 3 + size * (rng.normal(size=(models, examples)) + 0.7 * member)
    logits = np.stack([phi, np.zeros_like(phi)], axis=-1)[:, :, None]
    return Scores(logits, np.zeros(examples, dtype=int), member)


def lira_auc(scores, **options):
    return np.mean([metrics.auc(ATTACKS["lira"](scores, t, **options), scores.membership[t]) for t in range(0, scores.models, 4)])


@pytest.mark.parametrize("spread", [0.0, 0.6])
@pytest.mark.parametrize("models", [16, 40, 64, 72])
def test_16_shrunken_variances_lose_to_neither(models, spread):
    """On two fleets, of equal and of unequal spreads, on both sides of the switch at 64 shadows that was a cliff."""
    scores = heteroscedastic(models, spread=spread)
    shrunk = lira_auc(scores)
    others = [lira_auc(scores, variance=variance) for variance in ("global", "per_example")]
    assert shrunk > max(others) - 0.004
    assert shrunk > min(others) + 0.003


def test_17_quantile_regression_holds_its_rate():
    """Fitted and judged on the same population it called 16 % of the non-members at a nominal 5 %."""
    rates = []
    for seed in range(3):
        scores = rich(seed, models=2, examples=2000, population=500, queries=1, copies=2)
        rates.append(float((ATTACKS["quantile"](scores, 0, alpha=0.05)[~scores.membership[0]] > 0).mean()))
    # 500 in the population: the rate itself varies by sqrt(alpha (1 - alpha) / 500), twice over since folds differ.
    assert abs(np.mean(rates) - 0.05) < 4.89 * np.sqrt(2 * 0.05 * 0.95 / 500 / 3)


def test_17_difficulty_by_the_scaled_logit():
    logits, labels, member = sure_models()
    scores = Scores(logits[:, :, None], labels, member)

    def auc(**options):
        return np.mean([metrics.auc(ATTACKS["difficulty"](scores, t, **options), member[t]) for t in range(16)])

    assert auc(signal="logit") > auc() + 0.02


def null_fleet(seed, models=16, examples=800):
    """Models that know nothing, with examples of different difficulty."""
    return fleet(models=models, examples=examples, seed=seed)


def test_18_stability_is_chance_where_nothing_leaks():
    """The halves had shadows in common: LiRA read .35 to .43. Twenty null runs of 800 examples: their mean within 4.89 / sqrt(20 * 800)."""
    from dptrain.assess import assess

    found = [assess(SUBJECT, null_fleet(seed), {"lira": {}}, ()).exposed["stability"]["lira"] for seed in range(20)]
    assert abs(np.mean(found)) < 4.89 / np.sqrt(20 * 800) + 0.01


def test_18_none_stands_out_where_nothing_leaks():
    """14 of the 20 most exposed were significant each by itself. Of 60 null runs at most 14 name any (1e-6 limit of Binomial(60, .05))."""
    named = 0
    for seed in range(60):
        scores = null_fleet(seed, examples=400)
        matrix = np.stack([ATTACKS["lira"](scores, t) for t in range(16)])
        records = exposure.vulnerable(matrix, scores.membership, scores.labels, np.arange(400))
        named += any(record["stands_out"] for record in records)
    assert stats.binom.sf(14, 60, 0.05) < 1e-6
    assert named <= 14


def test_19_the_jackknife_of_examples_is_inflated():
    """Of a mean over ten equal blocks it is the variance of a mean, (g - 1) / g times the sum of squares."""
    rng = np.random.default_rng(0)
    member = sampling.memberships(4, 1000, sampling.seeded_key(0, "jackknife"))
    x = rng.normal(size=1000)
    values = np.tile(x, (4, 1))  # all targets alike: nothing varies but the examples
    interval = metrics.fleet_interval(lambda weights, kept: values[kept] @ weights / weights.sum(), member, (-9.0, 9.0))(0.95)
    block = np.random.default_rng(0).permutation(1000) % 10
    without = np.array([x[block != b].mean() for b in range(10)])
    error = np.sqrt(9 / 10 * np.square(without - without.mean()).sum())
    assert interval.high - interval.estimate == pytest.approx(stats.t.ppf(0.975, 3) * error, rel=1e-9)


def bounds_row(member, matrix, scores):
    rows = judge.attack_rows(SUBJECT, "loss", Judged(matrix), scores, ("one_run",))
    return next(row for row in rows if row.metric == "epsilon_one_run")


def test_19_of_several_bounds_the_lower_median_counts_each_at_half_the_error():
    rng = np.random.default_rng(0)
    member = sampling.memberships(4, 400, sampling.seeded_key(0, "median"))
    scores = Scores(rng.normal(size=(4, 400, 1, 2)), np.zeros(400, dtype=int), member)
    strength = np.array([0.0, 1.5, 3.0, 5.0])
    matrix = rng.normal(size=(4, 400)) + strength[:, None] * member
    each = sorted(one_run.from_one_run(own, mine, DELTA, "one_run", 0.975).epsilon for own, mine in zip(matrix, member, strict=True))
    assert each[1] < each[2]
    assert bounds_row(member, matrix, scores).estimate == pytest.approx(each[1])


def test_19_group_epsilons_are_of_groups():
    """Two Gaussian steps at sample rate 1: a group of k has k times the sensitivity, exactly."""
    run = Mechanism(Sampling.POISSON, 5, 5, 2, 4.0, 1.0, 5)
    for k in (1, 2, 8):
        assert accounting.group_epsilon(run, DELTA, k) == pytest.approx(accounting.gaussian_epsilon(k * np.sqrt(2) / 4, DELTA), rel=1e-6)
    sampled = Mechanism(Sampling.POISSON, 1, 5, 4, 2.0, 1.0, 1)
    one, two, eight = (accounting.group_epsilon(sampled, DELTA, k) for k in (1, 2, 8))
    assert one == pytest.approx(accounting.epsilon(sampled, DELTA), rel=0.02)
    assert 1.5 * one < two < eight
