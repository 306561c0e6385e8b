"""The price of choosing: as dp-accounting counts it, and never below what choosing really does."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm

from dptrain import cli
from dptrain.core.types import Mechanism, Sampling
from dptrain.evaluation import intervals
from dptrain.privacy import pld, rdp, selection
from dptrain.privacy.pld import UnsupportedMechanism
from dptrain.privacy.selection import Trials

SHAPES = (0.0, 0.5, 1.0, 3.0, math.inf)


def mechanism(noise=1.0, steps=100, batch=10, n=1000):
    return Mechanism(Sampling.POISSON, batch, n, steps, noise, 1.0, batch)


def gaussian(noise):
    return mechanism(noise, steps=1, batch=1, n=1)


def settings(count, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        chosen = mechanism(
            float(rng.uniform(0.6, 8)), int(rng.integers(1, 3000)), int(rng.integers(1, 300))
        )
        mean = float(np.exp(rng.uniform(0, np.log(1000))))
        yield chosen, Trials(mean, SHAPES[number % len(SHAPES)]), float(10 ** rng.uniform(-8, -3))


@pytest.fixture
def whole_orders(monkeypatch):
    """At fractional orders dp-accounting ends its series early, and is off by parts in a hundred:
    at order 1.1 of a step it gives more than at order 2, which no divergence does.
    """
    monkeypatch.setattr(rdp, "ORDERS", rdp.ORDERS[np.round(rdp.ORDERS) == rdp.ORDERS])
    rdp.divergences.cache_clear()
    yield
    rdp.divergences.cache_clear()


@pytest.mark.usefixtures("whole_orders")
def test_epsilon_equals_that_of_dp_accounting():
    for chosen, trials, delta in settings(100):
        step = dp_accounting.PoissonSampledDpEvent(
            float(chosen.sample_rate), dp_accounting.GaussianDpEvent(chosen.noise_multiplier)
        )
        whole = dp_accounting.SelfComposedDpEvent(step, chosen.steps)
        accountant = RdpAccountant(rdp.ORDERS)
        accountant.compose(
            dp_event.RepeatAndSelectDpEvent(whole, mean=trials.mean, shape=trials.shape)
        )
        ours = selection.by_renyi([chosen], delta, trials)
        assert ours == pytest.approx(accountant.get_epsilon(delta), rel=1e-9), (chosen, trials)


def test_the_papers_closed_forms():
    """Of the geometric law gamma is 1 / mean; a pure bound costs at most three times (corollary 3
    of theorem 2: 2 + shape times epsilon).
    """
    assert Trials(20.0).stopping == pytest.approx(0.05)
    for shape in (0.0, 0.5, 2.0):
        trials = Trials(30.0, shape)
        gamma = trials.stopping
        mean = (
            (1 / gamma - 1) / math.log(1 / gamma)
            if not shape
            else shape * (1 - gamma) / (gamma * (1 - gamma**shape))
        )
        assert mean == pytest.approx(30, rel=1e-7)
        assert mean >= 30 * (1 - 1e-12)  # rounded to the side that costs more
        pure = np.full(len(rdp.ORDERS), 0.1)  # bounded at every order
        top = selection.divergences(pure, trials)[-1]
        most = rdp.ORDERS[-1]
        exact = (2 + shape) * 0.1 + (1 + shape) * math.log(1 / gamma) / most
        assert top == pytest.approx(exact + math.log(30) / (most - 1), rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_trials_are_drawn_by_their_law(shape):
    """Of 20,000 draws the mean, within six standard errors."""
    trials, rng = Trials(8.0, shape), np.random.default_rng(1)
    drawn = np.array([trials.draw(rng) for _ in range(20_000)])
    assert abs(drawn.mean() - 8) < 6 * drawn.std() / math.sqrt(len(drawn))
    assert (drawn.min() == 0) == math.isinf(shape)
    assert Trials(1.0, 0.5).draw(rng) == 1


def test_one_trial_costs_no_less_than_training_once():
    for chosen, trials, delta in settings(5, seed=1):
        single = rdp.improved(
            float(chosen.sample_rate), chosen.noise_multiplier, chosen.steps, delta
        )
        assert selection.by_renyi([chosen], delta, trials) >= single * (1 - 1e-9)
        assert selection.by_profile([chosen], delta, trials) >= pld.epsilon(chosen, delta)
        twice = Trials(2 * trials.mean, trials.shape)
        assert selection.epsilon([chosen], delta, twice) >= selection.epsilon(
            [chosen], delta, trials
        ) * (1 - 1e-9)


def test_the_worst_candidate_counts_at_every_order():
    weak, strong = gaussian(1.0), mechanism(0.8, steps=900, batch=30)
    both = selection.worst([weak, strong])
    assert (both == np.maximum(selection.worst([weak]), selection.worst([strong]))).all()
    trials = Trials(10.0)
    each = [selection.epsilon([one], 1e-5, trials) for one in (weak, strong)]
    assert selection.epsilon([weak, strong], 1e-5, trials) >= max(each)


def hockey_stick(epsilon, inside, outside):
    return float(np.maximum(inside - math.exp(epsilon) * outside, 0).sum())


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("noise", [2.0, 5.0])
def test_the_best_of_gaussians_stays_below_the_bound(shape, noise):
    """Exactly: the largest of K normals has a distribution function that is K's generating
    function, so its delta at any epsilon is a sum over a fine grid. The bound lies above it, and
    choosing is not free: the delta of one training is exceeded.
    """
    trials = Trials(10.0, shape)
    grid = np.linspace(-12, 16, 40_001) * noise

    def density(mean):
        """Of the largest, cell by cell."""
        below = norm.cdf(grid, mean, noise)
        if math.isinf(shape):
            law = np.exp(trials.mean * (below - 1))
        elif shape == 0:
            gamma = trials.stopping
            law = np.log1p(-(1 - gamma) * below) / math.log(gamma)
        else:
            gamma = trials.stopping
            at = ((1 - (1 - gamma) * below) ** -shape - 1) / (gamma**-shape - 1)
            law = at
        return np.diff(law)

    nothing, something = density(0.0), density(1.0)
    for delta in (1e-2, 1e-4):
        for bound in (selection.by_renyi, selection.by_profile):
            claimed = bound([gaussian(noise)], delta, trials)
            real = max(
                hockey_stick(claimed, something, nothing),
                hockey_stick(claimed, nothing, something),
            )
            assert real <= delta
        free = pld.epsilon(gaussian(noise), delta)
        assert hockey_stick(free, something, nothing) > delta


def test_simulated_selections_stay_below_the_bound():
    """10,000 selections each way, scored by the output itself: no threshold shows more than the
    bound. False alarm 1e-6 over 200 thresholds.
    """
    noise, trials, delta, runs = 3.0, Trials(10.0), 1e-2, 10_000
    claimed = selection.epsilon([gaussian(noise)], delta, trials)
    rng = np.random.default_rng(2)

    def best(mean):
        return np.array([rng.normal(mean, noise, trials.draw(rng)).max() for _ in range(runs)])

    inside, outside = best(1.0), best(0.0)
    for threshold in np.quantile(np.r_[inside, outside], np.linspace(0.01, 0.99, 200)):
        hits, alarms = int((inside >= threshold).sum()), int((outside >= threshold).sum())
        least = intervals.lower_limit(hits, runs, 1e-6 / 400)
        most = intervals.upper_limit(alarms, runs, 1e-6 / 400)
        assert least <= math.exp(claimed) * most + delta


def test_what_no_law_has_is_refused():
    for mean, shape in ((0.5, 1.0), (math.inf, 1.0), (2.0, -0.5), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="mean of 1 or more"):
            Trials(mean, shape)
    with pytest.raises(UnsupportedMechanism):
        selection.epsilon([mechanism(noise=0.0)], 1e-5, Trials(2.0))


def test_a_risk_of_one_model_is_no_target_for_a_chosen_one(capsys):
    given = ["n=60000", "batch_size=256", "epochs=20", "trials=5"]
    assert cli.main(["calibrate", "max_advantage=0.1", *given]) == 2
    assert "trials: max_advantage and max_tpr are of a model by itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    "law",
    [
        "geometric",
        pytest.param("poisson", marks=pytest.mark.long),
        pytest.param("logarithmic", marks=pytest.mark.long),
    ],
)
def test_calibrate_counts_the_choice(capsys, law):
    import json

    given = ["n=60000", "batch_size=256", "epochs=20", "prv_seconds=0", "format=json"]
    assert cli.main(["calibrate", "epsilon=4", "trials=20", f"trials_law={law}", *given]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert cli.main(["calibrate", "epsilon=4", *given]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert 3.9 < chosen["epsilon_chosen"] <= 4
    assert chosen["epsilon"] < 3
    assert chosen["noise_multiplier"] > alone["noise_multiplier"]
    assert "epsilon_chosen" not in alone
