"""Tests of attacks.saturation."""

import numpy as np
import pytest

from dptrain import api
from dptrain.attacks import ATTACKS
from dptrain.attacks.scores import Scores
from dptrain.evaluation import (
    metrics,
)
from tests.helpers.subjects import sure_models


def lira_of(**given):
    rows = api.attack(given, attacks=["lira"], audits=[]).rows
    found = {row.metric.name: row for row in rows}
    return found["auc"], found["tpr_at_fpr_0.01"]


def test_lira_on_rounded_probabilities():
    """Probabilities of 20 votes: many are exactly 0 or 1. A floor of 1e-12 put those 27 logits
    away, and read AUC .60 for .70.
    """
    logits, labels, member = sure_models()
    plain = np.exp(logits - logits.max(-1, keepdims=True))
    plain /= plain.sum(-1, keepdims=True)
    rng = np.random.default_rng(1)
    votes = (
        np.stack([rng.multinomial(20, row) for row in plain.reshape(-1, 3)]).reshape(plain.shape)
        / 20
    )
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
    assert want > 0.03 + np.mean(
        [metrics.auc(ATTACKS["lira"](broken, t), member[t]) for t in range(16)]
    )


def test_lira_on_confidences_in_float32():
    """The floor at 1 is that of float32, not of float64: what is left of the attack does not drown
    in how far 1 is put away.
    """
    logits, labels, member = sure_models()
    logits[:, np.arange(600), labels] += 15  # most confidences round to 1
    exact = Scores(logits[:, :, None], labels, member)
    confidence = exact.confidence.astype(np.float32)
    share = float((confidence == 1).mean())
    assert 0.05 < share < 0.6
    found, _ = lira_of(confidence=confidence, membership=member)
    assert f"{share:.1%}" in found.note
    broken = Scores(
        None,
        labels,
        member,
        np.maximum(-np.log(confidence.astype(np.float64)), 2.0**-53)[:, :, None],
    )
    assert found.estimate > 0.02 + np.mean(
        [metrics.auc(ATTACKS["lira"](broken, t), member[t]) for t in range(16)]
    )
