"""Lower bounds of epsilon: published values, slow twins, and mechanisms whose epsilon is known."""

import math

import numpy as np
import pytest
from scipy import stats

from dptrain.evaluation import (
    epsilon_bounds,
)
from dptrain.privacy import gaussian
from tests import reference
from tests.helpers.counts import DELTA, EPSILONS, FIXTURES, counts
from tests.helpers.subjects import CLAIMED_DELTA


@pytest.mark.parametrize(("n", "ceiling"), [(100, 3.28), (500, 4.91), (1000, 5.60), (10_000, 7.90)])
def test_clopper_pearson_ceilings(n, ceiling):
    bound = epsilon_bounds.from_counts(n, 0, 0, n, DELTA)
    assert bound.epsilon == bound.ceiling == pytest.approx(ceiling, abs=0.005)
    assert (bound.n_in, bound.n_out, bound.confidence, bound.delta) == (n, n, 0.95, DELTA)


def test_gdp_ceilings_go_far_beyond_the_counts():
    """Perfect attacks on 100, 1,000 and 10,000 a world: 21, 36 and 51, which is why gdp names what
    it assumes.
    """
    found = [epsilon_bounds.from_counts(n, 0, 0, n, DELTA, "gdp") for n in (100, 1000, 10_000)]
    assert [round(bound.epsilon) for bound in found] == [21, 36, 51]
    assert all("Gaussian" in bound.assumes for bound in found)


def test_joint_beta_published_value():
    """privacy_estimates prints [.145, 6.399] for these counts, with tolerances of .01 in epsilon
    and .005 in probability. Ours is the exact interval, as 2e6 draws from the two posteriors
    confirm.
    """
    low, high = epsilon_bounds.joint_beta(487, 1, 512, 0, DELTA, 0.1)
    assert low == pytest.approx(0.145, abs=0.01)
    assert high == pytest.approx(6.399, abs=0.02)
    rng, draws = np.random.default_rng(0), 2_000_000
    fnr, fpr = (
        stats.beta(0.5, 487.5).rvs(draws, random_state=rng),
        stats.beta(512.5, 1.5).rvs(draws, random_state=rng),
    )
    above = fpr > 1 - fnr
    fnr, fpr = np.where(above, 1 - fnr, fnr), np.where(above, 1 - fpr, fpr)
    least, most = np.minimum(fnr, fpr), np.maximum(fnr, fpr)
    drawn = np.where(
        most > 1 - DELTA - least, 0, np.log(np.maximum(1 - DELTA - most, 1e-300) / least)
    )
    error = 4.89 * math.sqrt(0.05 * 0.95 / draws)  # false alarms 1e-6
    for end, level in ((low, 0.05), (high, 0.95)):
        below, beyond = np.quantile(drawn, [level - error, level + error])
        assert below <= end <= beyond
    assert epsilon_bounds.clopper_pearson_interval(487, 1, 512, 0, DELTA, 0.1) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("method", "twin"),
    [("clopper_pearson", reference.clopper_pearson_epsilon), ("gdp", reference.gdp_epsilon)],
)
def test_bounds_from_counts_equal_their_slow_twins(method, twin):
    for seed in range(FIXTURES):
        *table, delta = counts(seed)
        fast = epsilon_bounds.from_counts(*table, delta, method, 0.9)
        assert fast.epsilon == pytest.approx(twin(*table, delta, 0.9), rel=1e-9, abs=1e-9), seed


@pytest.mark.parametrize(
    "fixtures",
    [
        range(4),
        pytest.param(range(4, 10), marks=pytest.mark.long),
        pytest.param(range(10, FIXTURES), marks=pytest.mark.slow),
    ],
    ids=["some", "more", "all"],
)
def test_joint_beta_equals_its_slow_twin(fixtures):
    """The twin's mass of the region at our ends is what was asked for; the ends follow, since the
    mass rises in epsilon.
    """
    for seed in fixtures:
        tp, fn, fp, tn, delta = counts(seed)
        low, high = epsilon_bounds.joint_beta(tp, tn, fp, fn, delta, 0.2)
        if low > 0:
            assert reference.joint_beta_mass(tp, tn, fp, fn, delta, low) == pytest.approx(
                0.1, abs=1e-9
            ), seed
        else:
            assert reference.joint_beta_mass(tp, tn, fp, fn, delta, 0.0) >= 0.1 - 1e-9
        assert reference.joint_beta_mass(tp, tn, fp, fn, delta, high) == pytest.approx(
            0.9, abs=1e-9
        ), seed


def gaussian_scores(epsilon, n, rng):
    """Scores of n trials in and n out of the Gaussian mechanism that is (epsilon, DELTA)-DP and no
    better.
    """
    mu = gaussian.mu_of(epsilon, DELTA) if epsilon else 0.0
    return rng.normal(size=n) + mu, rng.normal(size=n)


def misses(method, epsilon, audits, n=200):
    found = 0
    for seed in range(audits):
        inside, outside = gaussian_scores(
            epsilon, n, np.random.default_rng([seed, int(10 * epsilon)])
        )
        found += (
            epsilon_bounds.from_scores(inside, outside, DELTA, method, seed=seed).epsilon > epsilon
        )
    return found


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("method", epsilon_bounds.METHODS)
def test_lower_bound_covers_the_gaussian_mechanism(method, epsilon):
    """400 audits at 95 %: at most 44 misses, the 1e-6 limit of Binomial(400, .05). The full count
    is under -m slow.
    """
    assert stats.binom.sf(44, 400, 0.05) < 1e-6
    assert misses(method, epsilon, 400) <= 44


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("method", epsilon_bounds.METHODS)
def test_lower_bound_covers_the_gaussian_mechanism_10000_times(method, epsilon, capsys):
    """At most 5.8 % of 10,000 audits; at epsilon 0 these are the false alarms on null scores."""
    rate = misses(method, epsilon, 10_000) / 10_000
    with capsys.disabled():
        print(
            f"\n{method}, epsilon {epsilon:g}: above the truth in {rate:.2%} of 10,000 "
            "audits at 95 %"
        )
    assert rate <= 0.058


@pytest.mark.parametrize("epsilon", EPSILONS[1:])
def test_median_bound_reaches_85_percent_of_the_truth(epsilon):
    """1e5 scores, half in and half out; Gaussian DP limits, which fit the mechanism.
    Clopper-Pearson cannot at large epsilon: see its ceiling.
    """
    rng = np.random.default_rng(int(10 * epsilon))
    found = [
        epsilon_bounds.from_scores(
            *gaussian_scores(epsilon, 50_000, rng), DELTA, "gdp", seed=seed
        ).epsilon
        for seed in range(15)
    ]
    assert 0.85 * epsilon <= np.median(found) <= epsilon


def test_thresholds_fixed_beforehand_are_paid_for():
    inside, outside = gaussian_scores(4.0, 1000, np.random.default_rng(0))
    one = epsilon_bounds.from_scores(inside, outside, DELTA, thresholds=np.array([1.0]))
    many = epsilon_bounds.from_scores(
        inside, outside, DELTA, thresholds=np.array([1.0, 50.0, 60.0])
    )
    assert 0 < many.epsilon < one.epsilon


def test_clopper_pearson_equals_jax_privacy():
    """The same module's epsilon_clopper_pearson(.05, 1e-5, one_sided=False,
    threshold_strategy=Explicit(t)) on these scores.
    """
    rng = np.random.default_rng(0)
    golden = {
        0.5: (0.228747, 0.3141836),
        1.5: (1.23450324, 1.43907959),
        3: (3.84450539, 2.53788826),
    }
    for mu, expected in golden.items():
        inside, outside = rng.normal(size=1000) + mu, rng.normal(size=1000)
        for threshold, value in zip((0.5, 1.5), expected, strict=True):
            assert epsilon_bounds.from_scores(
                inside, outside, DELTA, thresholds=np.array([threshold])
            ).epsilon == pytest.approx(value, abs=1e-7)


def test_clopper_pearson_at_fixed_ranks():
    """One half to choose and one half to try came to 1.14 and .48."""
    for m, least in ((2000, 1.2), (400, 0.6)):
        mu, found = gaussian.mu_of(4.38, CLAIMED_DELTA), []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            found.append(
                epsilon_bounds.from_scores(
                    rng.normal(size=m // 2) + mu, rng.normal(size=m // 2), CLAIMED_DELTA
                ).epsilon
            )
        assert least < np.mean(found) < 4.38
