"""The noise is what the accountant was told. Statistical tests: false-alarm rate 1e-6 each, seeded."""

import math

import numpy as np
import pytest
from scipy import stats

from dptrain.noise import GaussianNoise
from dptrain.sampling import seeded_key

KEYS = [seeded_key(k, "noise") for k in range(4)]


def draws(steps, size=5000, seed=0):
    keys = [seeded_key(4 * seed + k, "noise") for k in range(4)]
    noise = GaussianNoise(len(keys), size)
    return np.stack([noise.draw(keys, step).numpy().copy() for step in range(steps)])


def test_standard_normal(seed):
    x = draws(50, seed=seed).ravel().astype(np.float64)  # a million: an error of 1 % in sigma is 14 standard errors
    assert abs(x.mean()) < 4.89 / math.sqrt(x.size)
    assert abs(x.std() - 1) < 4.89 / math.sqrt(2 * x.size)
    assert abs(np.mean(x**4) - 3) < 4.89 * math.sqrt(96 / x.size)
    assert stats.kstest(x, "norm").pvalue > 1e-6
    assert 4.2 < np.abs(x).max() < 6.7


def test_tails(seed):
    x = np.abs(draws(100, seed=seed)).ravel()
    for limit in (3.0, 4.0):
        expected = x.size * 2 * stats.norm.sf(limit)
        assert abs((x > limit).sum() - expected) < 4.89 * math.sqrt(expected) + 5


def test_models_steps_and_halves_are_independent(seed):
    x = draws(3, seed=seed).astype(np.float64)
    rows = x.reshape(12, -1)
    rows = np.concatenate([rows[:, :2500], rows[:, 2500:]])  # the two halves of a row share their radius
    correlation = np.corrcoef(rows)[np.triu_indices(24, 1)]
    assert np.abs(correlation).max() * math.sqrt(2500) < 6


@pytest.mark.parametrize("size", [1, 2, 5, 101])
def test_any_size_and_stack_width_gives_the_same_rows(size):
    together = GaussianNoise(4, size).draw(KEYS, 7).clone()
    assert together.shape == (4, size)
    for k, key in enumerate(KEYS):
        alone = GaussianNoise(1, size).draw([key], 7)
        assert (alone[0] == together[k]).all()
