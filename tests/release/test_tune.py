"""Tuning at a price: the law is drawn once, every trial is charged, the claim covers the choice."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import dptrain
from dptrain import cli
from dptrain.core.errors import ConfigError
from dptrain.core.types import Mechanism, Sampling
from dptrain.privacy import ledger, pld, selection
from dptrain.privacy.selection import Trials
from dptrain.release import tune as tuning
from tests.common import TINY

pytestmark = pytest.mark.long
OPTIONS = [
    *(part for part in TINY if not part.startswith(("models_per", "epsilons"))),
    "epsilon=8",
    "trials=3",
    "defence.dpsgd.learning_rate=1,2",
]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return folder, dptrain.tune(*OPTIONS, f"output={folder}")


def test_the_claim_covers_training_and_choice(tuned):
    folder, result = tuned
    statement = result.final.statement
    choice = statement.selection
    assert statement.epsilon == choice.epsilon == choice.profile <= 8 < choice.renyi
    assert statement.epsilon > 7.9
    assert choice.alone < 0.9 * statement.epsilon
    assert choice.candidates == len(result.candidates) == 2
    assert statement.mu is None
    assert not statement.group
    curve = pld.claimed_trade_off(statement.epsilon, statement.delta)
    assert statement.ceilings.advantage == pytest.approx(curve.max_advantage)
    card = (folder / "model" / "README.md").read_text()
    assert "this epsilon covers that choice" in card
    assert f"{math.ceil(choice.alone * 1000) / 1000:.3f}" in card
    # Nothing of the trials, nor how many there were.
    assert len(list((folder / "model").iterdir())) == 4
    record = json.loads((folder / "model" / "model.json").read_text())
    assert record["privacy"]["evaluated"] is None


def test_every_trial_is_charged_and_they_add_up(tuned):
    """All models together are what the ledger says: no two trials stand for the halves of a pool,
    of which one alone would count.
    """
    folder, result = tuned
    accounts = ledger.read(folder / "store" / "ledger").accounts
    trained = [trial for trial in result.trials if trial.score is not None]
    assert len(accounts) == len(trained) == result.final.trained
    whole = sum(step.steps for step in ledger.total(list(accounts.values())))
    assert whole == sum(len(account.steps) for account in accounts.values())


def test_the_best_score_is_chosen_and_a_restart_changes_nothing(tuned):
    folder, result = tuned
    scores = [trial.score for trial in result.trials]
    assert scores[result.chosen] == max(scores)
    again = dptrain.tune(*OPTIONS, f"output={folder}")
    assert again.trials == result.trials
    assert again.chosen == result.chosen
    assert again.final.trained == 0
    assert again.final.statement == result.final.statement


def test_the_number_of_trials_is_drawn_once_before_anything_is_trained(tmp_path, monkeypatch):
    """Ctrl-C in the first trial, and a restart under another random state: the very same trials."""
    drawn = []
    fleet_of = tuning.fleet_of

    def interrupted(*given):
        drawn.append(sorted((tmp_path / "store" / "trials").iterdir()))
        raise KeyboardInterrupt

    options = [*OPTIONS, "privacy.noise=os", f"output={tmp_path}"]
    monkeypatch.setattr(tuning, "fleet_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dptrain.tune(*options)
    [[file]] = drawn
    before = file.read_bytes()
    monkeypatch.setattr(tuning, "fleet_of", fleet_of)
    result = dptrain.tune(*options)
    assert file.read_bytes() == before
    assert json.loads(before[32:]) == [
        result.candidates.index(trial.candidate) for trial in result.trials
    ]


def test_a_law_that_draws_no_trial_gives_nothing_away(tmp_path, monkeypatch):
    monkeypatch.setattr(Trials, "draw", lambda self, rng: 0)
    options = [*OPTIONS, "trials_law=poisson", f"output={tmp_path}"]
    for _ in range(2):  # and does not draw again
        with pytest.raises(ConfigError, match="trials: the law drew no trial"):
            dptrain.tune(*options)
        monkeypatch.undo()
    assert not (tmp_path / "model").exists()


def test_trials_draw_their_candidates_evenly():
    """Of 4,000 trials of four candidates each has a quarter, within six standard errors."""
    rng = np.random.default_rng(0)
    trials = Trials(4000.0, math.inf)
    drawn = rng.integers(0, 4, trials.draw(rng))
    counts = np.bincount(drawn)
    assert (abs(counts - len(drawn) / 4) < 6 * math.sqrt(len(drawn) * 3 / 16)).all()


def test_equal_scores_are_told_apart_by_the_models_and_not_by_their_order(monkeypatch):
    digests = {"a": "3", "b": "1", "c": "2"}
    monkeypatch.setattr(
        tuning.trained_models, "digest", lambda fleet, _setting, _index: digests[fleet]
    )
    attempts = [
        SimpleNamespace(fleet=name, candidate=SimpleNamespace(setting=None)) for name in "abc"
    ]
    config = SimpleNamespace(utility="accuracy")
    assert tuning._best(attempts, [0.5, 0.5, 0.5], config) == 1
    assert tuning._best(attempts[::-1], [0.5, 0.5, 0.5], config) == 1
    assert tuning._best(attempts, [0.5, None, 0.5], config) == 2
    assert tuning._best(attempts, [0.7, 0.5, 0.5], config) == 0
    losses = SimpleNamespace(utility="log_loss")
    assert tuning._best(attempts, [0.7, 0.6, 0.5], losses) == 2
    with pytest.raises(tuning.ReleaseError, match="every trial diverged"):
        tuning._best(attempts, [None] * 3, config)


def test_calibrated_candidates_stay_within_the_target_together():
    starts = [
        Mechanism(Sampling.POISSON, batch, 4000, steps, 0.0, clip, batch)
        for batch, steps, clip in ((64, 1250, 1.0), (256, 300, 1.0), (256, 300, 0.1))
    ]
    trials = Trials(20.0)
    noisy = selection.calibrate(starts, 4.0, 1e-5, trials)
    assert [each.clip for each in noisy] == [1.0, 1.0, 0.1]
    assert noisy[1].noise_multiplier == noisy[2].noise_multiplier != noisy[0].noise_multiplier
    together = selection.epsilon(noisy, 1e-5, trials)
    assert 3.9 < together <= 4.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["epsilon=null"], "epsilon: is needed"),
        (["dataset.canaries=20"], "dataset.canaries: a chosen model is not audited"),
        (["rows=all"], "rows: the best is chosen on the population"),
        (["seed=1,2"], "seed: is the same for all candidates"),
        (["privacy.delta=1e-5,1e-6"], "privacy: is the same for all candidates"),
        (["defence=[none]"], "defence: only that of DP-SGD has a price"),
        (["trials=0.5"], "trials: must lie in"),
    ],
)
def test_what_cannot_be_tuned(more, said, tmp_path):
    keys = {part.split("=")[0] for part in more}
    options = [part for part in OPTIONS if re.split("[.=]", part)[0] not in keys]
    with pytest.raises(ConfigError, match=said):
        dptrain.tune(*options, *more, f"output={tmp_path}")


def test_the_command_prints_both_numbers(tuned, capsys):
    folder, result = tuned
    assert cli.main(["tune", *OPTIONS, f"output={folder}"]) == 0
    out = capsys.readouterr().out
    assert "(chosen)" in out
    alone = math.ceil(result.final.statement.selection.alone * 100) / 100
    assert f"training and choice together; this model alone: epsilon {alone:.2f}" in out
