"""Tests of evaluation.evaluate."""

import numpy as np

from dptrain.attacks.scores import Scores
from dptrain.evaluation.evaluate import evaluate
from tests.fleets import fleet
from tests.helpers.attacks import SUBJECT


def test_canaries_have_rows_of_their_own():
    """Only the first 40 examples leak: the average hides it, their own rows do not."""
    plain = fleet(models=16, examples=400, seed=2)
    logits = plain.logits.copy()
    logits[:, np.arange(40), 0, plain.labels[:40]] += 8.0 * plain.membership[:, :40]
    scores = Scores(logits, plain.labels, plain.membership)
    canaries = np.arange(400) < 40
    found = evaluate(SUBJECT, scores, {"loss": {}}, ("one_run",), canaries=canaries)
    by = {(row.examples, row.metric.name): row for row in found.rows}
    assert by["canaries", "auc"].estimate > 0.95
    assert by["all", "auc"].estimate < 0.6
    assert by["canaries", "auc"].n_in == plain.membership[:, :40].sum()
    assert by["canaries", "epsilon_one_run"].estimate > by["all", "epsilon_one_run"].estimate
