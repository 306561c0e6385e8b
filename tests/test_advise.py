"""Advice: what is met at the safe end of the intervals, and never more said than was measured."""

import json
from dataclasses import asdict

import pytest

from dptrain import cli
from dptrain.advice import advise, candidates, frontiers
from dptrain.commands import AdviseConfig
from dptrain.judge import Row
from dptrain.store import seal
from dptrain.types import ConfigError


def setting(name, accuracy, risk, epsilon=None, ceiling=None, wide=0.02, metric="auc"):
    def row(attack, metric, value, ceiling=None):
        return Row(name, "d", epsilon, attack, metric, value, value - wide, value + wide, 4, 100, 100, ceiling)

    return [row(None, "test_accuracy", accuracy), row("loss", metric, risk - 0.05, ceiling), row("lira", metric, risk, ceiling)]


SWEEP = [
    *setting("none", 0.92, 0.70),
    *setting("dropout", 0.91, 0.62),
    *setting("dpsgd-8", 0.88, 0.60, 8.0, 0.87),
    *setting("dpsgd-2", 0.83, 0.56, 2.0, 0.64),
    *setting("dpsgd-1", 0.70, 0.57, 1.0, 0.58),
]


@pytest.fixture
def folder(tmp_path):
    statements = {"dpsgd-2": {"guarantee": "(2, 1e-05)-differential privacy"}}
    (tmp_path / "metrics.json").write_bytes(seal({"rows": [asdict(row) for row in SWEEP], "statements": statements}))
    return tmp_path


def ask(folder, **demands):
    keys = ("max_tpr_at_1pct_fpr", "max_auc", "max_advantage", "min_accuracy", "max_epsilon")
    return advise(AdviseConfig(run=str(folder), format="table", **{key: demands.get(key) for key in keys}))


def names(found):
    return [one.name for one in found]


def test_risk_is_the_strongest_attack_at_the_upper_end(folder):
    found = ask(folder, max_auc=0.63)
    assert names(found.meeting) == ["dpsgd-8", "dpsgd-2", "dpsgd-1"]
    assert names(found.undecided) == ["dropout"]
    assert names(found.failing) == ["none"]
    assert "dropout: measured against these attacks only" in found.text()
    assert found.text().startswith("Asked: max_auc=0.63.\nTake dpsgd-8: accuracy 0.880 [0.860, 0.900]; AUC 0.600 [0.580, 0.620] by lira")


def test_every_attack_must_stay_below(tmp_path):
    """The strongest by its estimate is not the one whose interval reaches highest."""
    unsure = Row("none", "d", None, "rmia", "auc", 0.60, 0.40, 0.80, 4, 100, 100)
    (tmp_path / "metrics.json").write_bytes(seal({"rows": [asdict(row) for row in [*setting("none", 0.9, 0.62), unsure]]}))
    found = ask(tmp_path, max_auc=0.7)
    assert not found.meeting
    assert names(found.undecided) == ["none"]


def test_a_proof_is_enough(folder):
    """The interval of dpsgd-1 reaches .59; its ceiling is .58."""
    assert names(ask(folder, max_auc=0.585).meeting) == ["dpsgd-2", "dpsgd-1"]
    assert names(ask(folder, max_auc=0.5801).meeting) == ["dpsgd-2", "dpsgd-1"]


def test_accuracy_at_the_lower_end_and_then_the_safest(folder):
    found = ask(folder, min_accuracy=0.85)
    assert names(found.meeting) == ["dpsgd-8", "dropout", "none"]
    assert names(ask(folder, min_accuracy=0.87).undecided) == ["dpsgd-8"]
    assert "cannot be told apart" in found.text()


def test_epsilon_is_never_met_by_what_is_not_private(folder):
    found = ask(folder, max_epsilon=4)
    assert names(found.meeting) == ["dpsgd-2", "dpsgd-1"]
    assert "(2, 1e-05)-differential privacy" in found.text()
    assert not ask(folder, max_epsilon=0.5).meeting


def test_frontiers():
    measured, proven = frontiers(candidates(SWEEP))
    assert measured == ["dpsgd-2", "dpsgd-8", "dropout", "none"]
    assert proven == ["dpsgd-1", "dpsgd-2", "dpsgd-8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nowhere", "max_auc=0.6"], "run: there is no finished sweep in nowhere"),
        (["max_auc=0.6"], "run: give the folder"),
        (["run=FOLDER", "max_auc=2"], r"max_auc: must lie in \(0, 1\)"),
        (["run=FOLDER", "max_tpr_at_1pct_fpr=0.02"], "max_tpr_at_1pct_fpr: this sweep has no TPR at 1 % FPR"),
        (["run=FOLDER", "min_auc=0.5"], "min_auc: unknown key; did you mean 'max_auc'"),
    ],
)
def test_bad_demands(folder, capsys, arguments, message):
    import re

    assert cli.main(["advise", *(argument.replace("FOLDER", str(folder)) for argument in arguments)]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert told.count("\n") == 1


def test_command(folder, capsys):
    assert cli.main(["advise", f"run={folder}", "max_auc=0.63", "format=json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["meeting"][0]["setting"] == "dpsgd-8"
    assert cli.main(["advise", f"run={folder}", "max_auc=0.5"]) == 1
    assert "No setting of this sweep meets it for certain." in capsys.readouterr().out
    assert cli.main(["advise", f"run={folder}"]) == 0
    assert "Nothing asked" in capsys.readouterr().out
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(ConfigError):
        ask(folder)
