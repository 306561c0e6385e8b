"""Tests of fleet.measurements."""

import itertools
import json

import pytest

from dptrain import cli
from tests.common import TINY

MORE = "[merlin,morgan,label_only,gradient_norm,gradient_canary,trajectory,quantile,attack_p]"


@pytest.mark.long
def test_a_sweep_measures_what_its_attacks_need(tmp_path, capsys):
    """And nothing twice: the same sweep with one attack more trains nothing."""
    overrides = [
        *TINY,
        "dataset.pool=120",
        "dataset.population=120",
        "training.trajectory=3",
        "queries.copies=5",
        f"output={tmp_path / 'out'}",
    ]
    assert cli.main(["sweep", *overrides, f"attacks={MORE}"]) == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    aucs = {
        (row["setting"], row["attack"]): row["estimate"]
        for row in rows
        if row["metric"] == "auc" and row["attack"] != "blind"
    }
    names = MORE.strip("[]").split(",")
    assert set(aucs) == set(itertools.product(("none", "dpsgd-8"), names))
    assert all(value is not None for value in aucs.values())
    capsys.readouterr()
    assert (
        cli.main(
            [
                "sweep",
                *overrides,
                "attacks=[loss,label_only]",
                "attacks.label_only.copies=augmented",
            ]
        )
        == 0
    )
    assert "\n0 models trained now" in capsys.readouterr().out


def test_a_trajectory_must_be_asked_for(tmp_path, capsys):
    assert cli.main(["sweep", *TINY, "attacks=[trajectory]", f"output={tmp_path}"]) == 2
    assert "training.trajectory: must be at least 1" in capsys.readouterr().err
