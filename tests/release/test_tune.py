"""Tuning at a price: the law is drawn once, every trial is charged, the claim covers the choice."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import dptrain
from dptrain import cli
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.core.types import Mechanism, Sampling
from dptrain.data import datasets, splits
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
    places = [place for place, _ in json.loads(before[32:])["trials"]]
    assert places == [result.candidates.index(trial.candidate) for trial in result.trials]
    # Other threads or checkpoints draw nothing anew, and another choice needs another folder.
    more = dptrain.tune(*options, "training.checkpoint_seconds=7")
    assert more.trials == result.trials
    with pytest.raises(ConfigError, match=r"output: .* holds the trials of another choice"):
        dptrain.tune(*[part for part in options if "trials=" not in part], "trials=4")
    file.write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"output: the record of the trials .* is damaged"):
        dptrain.tune(*options)


def test_nothing_of_a_trial_is_a_function_of_its_place(tmp_path):
    """Initial weights come from seeds of the secret draw: two choices share none, nor do two
    trials, whatever the public seed.
    """
    seeds = []
    for name in "ab":
        dptrain.tune(*OPTIONS, "privacy.noise=os", f"output={tmp_path}/{name}")
        [file] = (tmp_path / name / "store" / "trials").iterdir()
        seeds += [seed for _, seed in json.loads(file.read_bytes()[32:])["trials"]]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > 2**32


def test_a_private_row_does_not_decide_whether_a_trial_counts(tmp_path):
    """A row whose logits overflow is of no trial's score: a model is given away as without it."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 5)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(int)
    keys = ["dataset.pool=100", "dataset.population=40", "dataset.test=40", "dataset=npz"]
    np.savez(tmp_path / "plain.npz", inputs=inputs, labels=labels)
    given = [*keys, f"dataset.path={tmp_path}/plain.npz", "training.batch_size=20"]
    data = compose.load("sweep", given).dataset
    pool, _, _ = splits.parts(data, 0, datasets.source(data, 0))
    inputs[pool[0]] = 3e38
    np.savez(tmp_path / "huge.npz", inputs=inputs, labels=labels)
    for name in ("plain", "huge"):
        result = dptrain.tune(
            *keys,
            f"dataset.path={tmp_path}/{name}.npz",
            "model=logistic",
            "epsilon=8",
            "trials=3",
            "privacy.noise=seeded",
            "defence.dpsgd.learning_rate=8",
            "training.batch_size=20",
            "training.epochs=5",
            f"output={tmp_path}/{name}",
        )
        assert all(trial.score is not None for trial in result.trials)


def test_a_law_that_draws_no_trial_gives_nothing_away(tmp_path, monkeypatch):
    monkeypatch.setattr(Trials, "draw", lambda self, rng: 0)
    options = [*OPTIONS, "trials_law=poisson", f"output={tmp_path}"]
    for _ in range(2):  # and does not draw again
        with pytest.raises(ConfigError, match="trials: the law drew no trial"):
            dptrain.tune(*options)
        monkeypatch.undo()
    assert not (tmp_path / "model").exists()


def test_trials_draw_their_candidates_evenly():
    """Of the trials of 400 choices among four candidates each candidate has a quarter, within six
    standard errors, and their number has the mean of the law.
    """

    class Nowhere:
        """A store that keeps nothing."""

        def read_file(self, _stage, _key):
            return None

        def file_keys(self, _stage):
            return []

        def write_file(self, *_given):
            return None

    setting = SimpleNamespace(shaping=lambda: [])
    ready = SimpleNamespace(
        config=SimpleNamespace(model={}), architecture="", source=SimpleNamespace(digest="")
    )
    candidates = [SimpleNamespace(ready=ready, setting=setting)] * 4
    config = SimpleNamespace(
        trials=10.0,
        trials_law="geometric",
        utility="accuracy",
        decision="highest",
        seed=0,
        privacy=SimpleNamespace(noise="os"),
        folder="",
    )
    drawn = [tuning._drawn(Nowhere(), candidates, Trials(10.0), config) for _ in range(400)]
    places = np.array([place for trials in drawn for place, _ in trials])
    error = 6 * math.sqrt(len(places) * 3 / 16)
    assert (abs(np.bincount(places) - len(places) / 4) < error).all()
    counts = np.array([len(trials) for trials in drawn])
    assert abs(counts.mean() - 10) < 6 * math.sqrt(90 / 400)


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
    with pytest.raises(tuning.ReleaseError, match="no trial has a score"):
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
        (["seed=1,2"], "seed: must be the same for all candidates"),
        (["privacy.delta=1e-5,1e-6"], "privacy: must be the same for all candidates"),
        (["dataset.test=10,20"], "dataset.test: must be the same for all candidates"),
        (["epsilon=2,4"], "epsilon: must be the same for all candidates"),
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
    assert "-DP, training and choice together" in out
    assert f"this model alone: epsilon {alone:.2f}" in out
