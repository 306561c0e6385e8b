"""Attacks on a target's outputs alone, on examples that one can compute by hand."""

import math

import numpy as np
import pytest

from dptrain.attacks import outputs
from dptrain.attacks.scores import Scores

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
LABELS = np.array([0, 0, 2])
SCORES = Scores(np.log(PROBABILITIES)[None, :, None], LABELS, np.array([[True, False, True]]))


def test_by_hand():
    assert outputs.correctness(SCORES, 0).tolist() == [1.0, 0.0, 1.0]
    assert outputs.confidence(SCORES, 0) == pytest.approx([0.7, 0.1, 0.5])
    assert outputs.loss(SCORES, 0) == pytest.approx(np.log([0.7, 0.1, 0.5]))
    entropy = [sum(p * math.log(p) for p in row) for row in PROBABILITIES]
    assert outputs.entropy(SCORES, 0) == pytest.approx(entropy)
    first = 0.3 * math.log(0.7) + 0.2 * math.log(0.8) + 0.1 * math.log(0.9)
    assert outputs.modified_entropy(SCORES, 0)[0] == pytest.approx(first)
