"""Rankings that are made once, or whenever they are asked for, and of some examples only."""

import numpy as np
import pytest

from dptrain.evaluation import rankings
from dptrain.evaluation.rankings import Ranking, Rankings
from tests import reference
from tests.helpers.metrics import draw


def table(ties):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(4, 90)).round(1 if ties else 9)
    return scores, rng.random((4, 90)) < 0.5


@pytest.mark.parametrize("small", [0, 10**9])
@pytest.mark.parametrize("ties", [False, True])
def test_those_of_some_targets_and_some_examples(monkeypatch, small, ties):
    monkeypatch.setattr(rankings, "SMALL", small)
    scores, member = table(ties)
    columns, targets = np.arange(90) % 3 == 0, np.array([2, 0])
    some = Rankings(scores, member).of(targets).among(columns)
    assert len(some) == 2
    for _ in range(2):
        for ranking, target in zip(some, targets, strict=True):
            alone = Ranking.of(scores[target, columns], member[target, columns])
            assert ranking.best() == alone.best()
            assert ranking.values.tolist() == alone.values.tolist()
            for ours, expected in zip(ranking.counts(), alone.counts(), strict=True):
                assert ours.tolist() == expected.tolist()
            weights = np.random.default_rng(2).integers(0, 3, (5, 90)).astype(float)
            got, expected = ranking.auc(weights), alone.auc(weights[:, columns])
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", range(10))
def test_the_auc_of_a_part_is_that_of_its_examples(seed):
    scores, member = draw(seed, ties=seed % 2 == 0)
    chosen = np.random.default_rng(seed).random((6, len(scores))) < 0.8
    chosen[4] = member  # nobody is out
    chosen[5] = False
    got = Ranking.of(scores, member).auc_of(chosen)
    assert np.isnan(got[4:]).all()
    for row, value in zip(chosen[:4], got[:4], strict=True):
        assert value == pytest.approx(reference.auc(scores[row], member[row]), abs=1e-12)


def test_what_reaches_a_threshold():
    scores, member = table(ties=True)
    ranking = Ranking.of(scores[0], member[0])
    thresholds = np.array([-np.inf, -0.3, 0.0, 0.05, 9.0])
    out, inside = ranking.reach(thresholds)
    assert inside.tolist() == [(scores[0][member[0]] >= each).sum() for each in thresholds]
    assert out.tolist() == [(scores[0][~member[0]] >= each).sum() for each in thresholds]
