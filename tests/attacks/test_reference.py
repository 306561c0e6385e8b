"""Tests of attacks.reference."""

import numpy as np

from dptrain.attacks import ATTACKS
from dptrain.attacks.scores import Scores
from dptrain.evaluation import (
    metrics,
)
from tests.helpers.subjects import sure_models


def test_difficulty_by_the_scaled_logit():
    logits, labels, member = sure_models()
    scores = Scores(logits[:, :, None], labels, member)

    def auc(**options):
        return np.mean(
            [metrics.auc(ATTACKS["difficulty"](scores, t, **options), member[t]) for t in range(16)]
        )

    assert auc(signal="logit") > auc() + 0.02
