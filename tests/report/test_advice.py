"""Advice: what is met at the safe end of the intervals, and never more said than was measured."""

import json
import re
from dataclasses import fields, replace

import pytest

from dptrain import api, cli
from dptrain.config.commands import AdviseConfig
from dptrain.core import store
from dptrain.core.errors import ConfigError, LayerError
from dptrain.core.store import seal
from dptrain.core.types import Mechanism, NoiseSource, Sampling, Setting
from dptrain.privacy.statement import Circumstances, planned
from dptrain.report.advice import advise, candidates, frontiers
from tests import fleets
from tests.runs import make_recipe


def setting(name, accuracy, risk, epsilon=None, ceiling=None, wide=0.02, metric="auc"):
    def row(attack, metric, value, ceiling=None):
        return fleets.row(
            name,
            "d",
            epsilon,
            attack,
            metric,
            value,
            value - wide,
            value + wide,
            4,
            100,
            100,
            ceiling,
        )

    return [
        row(None, "test_accuracy", accuracy),
        row("loss", metric, risk - 0.05, ceiling),
        row("lira", metric, risk, ceiling),
    ]


SWEEP = [
    *setting("none", 0.92, 0.70),
    *setting("dropout", 0.91, 0.62),
    *setting("dpsgd-8", 0.88, 0.60, 8.0, 0.87),
    *setting("dpsgd-2", 0.83, 0.56, 2.0, 0.64),
    *setting("dpsgd-1", 0.70, 0.57, 1.0, 0.58),
]


@pytest.fixture
def folder(tmp_path):
    mechanism = Mechanism(Sampling.POISSON, 50, 500, 40, 2.0, 1.0, 50)
    chosen = Setting("dpsgd-2", "dpsgd", 2.0, 1e-5, mechanism, make_recipe(0.1))
    around = Circumstances(noise=NoiseSource.OS, preprocessing="")
    statements = {"dpsgd-2": replace(planned(chosen, around), epsilon=2.0).to_json()}
    (tmp_path / "metrics.json").write_bytes(
        seal({"rows": [row.to_json() for row in SWEEP], "privacy": statements})
    )
    return tmp_path


def ask(folder, **demands):
    keys = [each.name for each in fields(AdviseConfig) if each.name not in ("run", "format")]
    return advise(
        AdviseConfig(run=str(folder), format="table", **{key: demands.get(key) for key in keys})
    )


def names(found):
    return [one.name for one in found]


def test_risk_is_the_strongest_attack_at_the_upper_end(folder):
    found = ask(folder, max_auc=0.63)
    assert names(found.meeting) == ["dpsgd-8", "dpsgd-2", "dpsgd-1"]
    assert names(found.undecided) == ["dropout"]
    assert names(found.failing) == ["none"]
    assert "dropout: measured against these attacks only" in found.text()
    assert found.text().startswith(
        "Asked: max_auc=0.63.\nTake dpsgd-8: accuracy 0.880 [0.860, 0.900]; AUC 0.600 "
        "[0.580, 0.620] by lira"
    )


def test_every_attack_must_stay_below(tmp_path):
    """The strongest by its estimate is not the one whose interval reaches highest."""
    unsure = fleets.row("none", "d", None, "rmia", "auc", 0.60, 0.40, 0.80, 4, 100, 100)
    (tmp_path / "metrics.json").write_bytes(
        seal({"rows": [row.to_json() for row in [*setting("none", 0.9, 0.62), unsure]]})
    )
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
    assert "(2.000, 1e-05)-differential privacy" in found.text()
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
        (
            ["run=FOLDER", "max_tpr_at_1pct_fpr=0.02"],
            "max_tpr_at_1pct_fpr: this sweep has no TPR at 1 % FPR",
        ),
        (["run=FOLDER", "min_auc=0.5"], "min_auc: unknown key; did you mean 'max_auc'"),
    ],
)
def test_bad_demands(folder, capsys, arguments, message):

    assert (
        cli.main(["advise", *(argument.replace("FOLDER", str(folder)) for argument in arguments)])
        == 2
    )
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
    with pytest.raises(LayerError):
        ask(folder)


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [], "checksum": "0"}',
        '{"rows": [{"estimate": NaN}]}',
        "[" * 100_000,
        '{"rows": [{"estimate": 1e999}]}',
    ],
)
def test_advice_takes_no_damaged_file(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises((ConfigError, LayerError), match=r"run: .* was altered"):
        api.advise(tmp_path)


def advice_on(folder, differences, accuracies):
    rows = []
    for name, (accuracy, epsilon, ceiling) in accuracies.items():
        about = (name, "dpsgd", epsilon)
        rows.append(
            fleets.row(
                *about, None, "test_accuracy", accuracy, accuracy - 0.01, accuracy + 0.01, 4, 0, 100
            )
        )
        rows.append(fleets.row(*about, "loss", "auc", 0.51, 0.5, 0.52, 4, 100, 100, ceiling))
    record = {"rows": [one.to_json() for one in rows], "statements": {}}
    record["differences"] = {"accuracy": differences}
    (folder / "metrics.json").write_bytes(store.seal(record))
    return [one.name for one in api.advise(folder, max_epsilon=8).meeting]


def test_among_settings_that_cannot_be_told_apart_the_strongest_proof(tmp_path):
    settings = {
        "dpsgd-4": (0.817, 4.0, 0.8),
        "dpsgd-1": (0.815, 1.0, 0.58),
        "dpsgd-0.5": (0.79, 0.5, 0.54),
    }
    alike = {"dpsgd-4": {"dpsgd-1": [0.002, -0.001, 0.005], "dpsgd-0.5": [0.027, 0.02, 0.034]}}
    assert advice_on(tmp_path, alike, settings)[0] == "dpsgd-1"
    # The intervals overlap as before, and the paired difference tells them apart.
    apart = {"dpsgd-4": {"dpsgd-1": [0.002, 0.001, 0.003], "dpsgd-0.5": [0.027, 0.02, 0.034]}}
    assert advice_on(tmp_path, apart, settings)[0] == "dpsgd-4"
