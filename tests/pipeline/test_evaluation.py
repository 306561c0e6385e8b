"""Tests of pipeline.evaluation."""

import pytest

from dptrain.pipeline import evaluation
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
