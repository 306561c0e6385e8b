"""Tests of pipeline.foreign_scores."""

import pytest

from tests.common import ROOT, strict_json
from tests.fleets import COLUMNS, fleet
from tests.helpers.foreign import arrays_of, run, save

PUBLISHED = ROOT / "tests" / "golden" / "location30_predictions.npz"


def test_published_predictions(capsys):
    """Song and Mittal's saved predictions of Location-30 give the numbers that their own code
    gives.
    """
    assert run(f"scores={PUBLISHED}", "format=json") == 0
    rows = {
        (row["attack"], row["metric"]): row["estimate"]
        for row in strict_json(capsys.readouterr().out)["rows"]
    }
    accuracy = {
        "correctness": 0.6870,
        "confidence": 0.7630,
        "entropy": 0.6155,
        "modified_entropy": 0.7810,
    }
    for attack, expected in accuracy.items():
        assert rows[attack, "balanced_accuracy_per_class"] == pytest.approx(expected, abs=0.001)
    for attack, expected in {
        "confidence": 0.8698,
        "entropy": 0.8444,
        "modified_entropy": 0.8711,
    }.items():
        assert rows[attack, "auc"] == pytest.approx(expected, abs=0.001)
    assert rows["confidence", "balanced_accuracy_oracle"] == pytest.approx(0.844, abs=0.001)


def test_json_is_that_of_a_sweep(good, capsys):
    assert run(f"scores={good}", "format=json", "attacks=[loss,lira]") == 0
    record = strict_json(capsys.readouterr().out)
    row = record["rows"][0]
    assert {*COLUMNS, "examples"} <= set(row)
    assert {row["attack"] for row in record["rows"]} == {"loss", "lira"}
    assert record["exposed"]["scores"]["vulnerable"]["lira"]


def test_exchanged_members_are_pointed_out(tmp_path, capsys):
    """An attack that is right about everybody, but the wrong way round, looks harmless."""
    scores = arrays_of(fleet(models=16, examples=600, leak=8.0))
    right = save(tmp_path / "right.npz", **scores)
    exchanged = {**scores, "membership": ~scores["membership"]}
    wrong = save(tmp_path / "wrong.npz", **exchanged)
    assert run(f"scores={right}", "attacks=[loss]") == 0
    assert "exchanged" not in capsys.readouterr().out
    assert run(f"scores={wrong}", "attacks=[loss]") == 0
    assert "loss: AUC far below .5. Members and others may be exchanged" in capsys.readouterr().out


def test_a_claim_that_does_not_hold_fails_loudly(tmp_path, capsys):
    scores = fleet(models=16, examples=600, leak=8.0)
    file = save(tmp_path / "leaky.npz", **arrays_of(scores))
    assert run(f"scores={file}", "attacks=[loss]", "claim=1") == 1
    assert "CONTRADICTION" in capsys.readouterr().err
    assert run(f"scores={file}", "attacks=[loss]") == 0
