"""Tests of pipeline.evaluation."""

from types import SimpleNamespace

import numpy as np
import pytest

from dptrain.attacks.scores import Scores
from dptrain.core.types import Decision
from dptrain.evaluation.utility import fitted_threshold
from dptrain.pipeline import evaluation
from dptrain.pipeline.evaluation import _predictions
from tests.helpers.sweep import go


def test_scores_follow_the_data_they_are_of(tmp_path):
    """Without noise and at sample rate 1 two splits can give equal parameters; their scores are
    still their own.
    """
    plain = ["epsilons=[inf]", "training.batch_size=30"]
    go(tmp_path / "shared", *plain)
    mixed = go(tmp_path / "shared", *plain, "dataset.population=30", "dataset.test=30")
    fresh = go(tmp_path / "fresh", *plain, "dataset.population=30", "dataset.test=30")
    assert list(mixed.rows) == list(fresh.rows)


@pytest.mark.long
def test_attacks_follow_the_models_they_are_of(tmp_path):
    """Other models on the same examples: scores of the same shape, and nothing of the first run may
    be found again.
    """
    go(tmp_path / "shared", "training.epochs=1")
    mixed, fresh = (go(tmp_path / name) for name in ("shared", "fresh"))
    assert list(mixed.rows) == list(fresh.rows)


@pytest.mark.long
def test_settings_that_share_the_processors_give_the_same_numbers(tmp_path, monkeypatch):
    overrides = ["epsilons=[inf,8,2]", "attacks=[loss,lira]"]
    alone = go(tmp_path / "alone", *overrides)
    monkeypatch.setattr(evaluation, "START_SECONDS", -1)
    monkeypatch.setattr(evaluation, "cores", lambda: 2)
    places = []
    run = evaluation.run

    def listening(jobs, setup, where, *given):
        places.append(len(where))
        run(jobs, setup, where, *given)

    monkeypatch.setattr(evaluation, "run", listening)
    shared = go(tmp_path / "shared", *overrides)
    assert places == [1, 2]
    assert shared.rows == alone.rows
    used = [(tmp_path / name / "artefacts.json").read_text() for name in ("alone", "shared")]
    assert used[0] == used[1]


@pytest.mark.parametrize("decision", Decision)
def test_a_threshold_is_fitted_on_the_population(decision):
    """One a model, by its answers there, and not on the test set, on which it is measured."""
    rng = np.random.default_rng(0)

    def part(examples, shift):
        labels = rng.integers(0, 2, examples)
        logits = rng.standard_normal((2, examples, 1, 2))
        logits[:, :, 0, 1] += 2 * labels - 1 + shift
        return logits, labels

    (pool, labels), (known, of_known), (test, of_test) = part(40, 0), part(80, 3), part(50, -3)
    outside = Scores(known, of_known, np.zeros((2, 80), dtype=bool))
    membership = np.arange(40) % 2 == np.arange(2)[:, None]
    scores = Scores(pool, labels, membership, population=outside)
    fleet = SimpleNamespace(
        config=SimpleNamespace(decision=decision, utility="accuracy"),
        dataset=SimpleNamespace(
            classes=2,
            population=SimpleNamespace(labels=of_known),
            test=SimpleNamespace(labels=of_test),
        ),
    )
    for model, (on_pool, on_test) in enumerate(_predictions(fleet, scores, test)):
        odds = test[model, :, 0, 1] - test[model, :, 0, 0]
        threshold = 0.0
        if decision == Decision.FITTED:
            logits = known[model, :, 0] - np.logaddexp.reduce(known[model, :, 0], 1)[:, None]
            threshold = fitted_threshold("accuracy", logits, of_known)
            assert threshold > 1
            assert on_test.threshold == pytest.approx(threshold)
        np.testing.assert_array_equal(on_test.decided, odds >= threshold)
        decided = pool[model, :, 0, 1] - pool[model, :, 0, 0] >= threshold
        np.testing.assert_array_equal(on_pool.right, decided == labels)
