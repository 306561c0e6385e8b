"""Tests of attacks.blind."""

import numpy as np

from dptrain.attacks.leaks import blind
from dptrain.evaluation import metrics


def test_blind_baseline_finds_a_leaky_split_and_nothing_else():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(800, 5)), rng.integers(0, 3, 800)
    fair = np.array([metrics.auc(blind(inputs, labels, m), m) for m in rng.random((20, 800)) < 0.5])
    assert abs(fair.mean() - 0.5) < 4.89 * fair.std(ddof=1) / np.sqrt(20)
    assert metrics.auc(blind(inputs, labels, inputs[:, 2] > 0), inputs[:, 2] > 0) > 0.95
