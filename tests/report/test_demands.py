"""Demands in words: read as they are meant, met at the safe end of intervals or by a proof."""

import re

import pytest

from dptrain import cli
from dptrain.core.errors import TargetError
from dptrain.core.store import seal
from dptrain.evaluation.subgroups import GroupRow
from dptrain.report import demands
from dptrain.report.demands import Demand, Number, meets
from tests import fleets
from tests.report.test_advice import ask, names


def risk(name, epsilon, attack, metric, limits, ceiling=None, examples="all"):
    low, estimate, high = limits
    about = (name, "d", epsilon, attack, metric)
    return fleets.row(*about, estimate, low, high, 4, 100, 100, ceiling, examples=examples)


def refused(name, epsilon, attack, metric, reason):
    about = (name, "d", epsilon, attack, metric)
    return fleets.row(*about, None, None, None, 4, 100, 100, note=f"refused: {reason}")


def sweep_of(name, epsilon, accuracy, of_group, canaries, ceiling=None):
    rows = [
        risk(name, epsilon, None, "test_accuracy", accuracy),
        risk(name, epsilon, "loss", "auc", (0.5, 0.51, 0.52), ceiling),
        risk(name, epsilon, "lira", "auc", (0.5, 0.53, 0.56), ceiling),
        risk(name, epsilon, "lira", "auc", canaries, ceiling, "canaries"),
        risk(name, epsilon, "imputation", "attribute_accuracy_income", (0.9, 0.91, 0.92)),
        risk(name, epsilon, "yeom", "attribute_accuracy_income", (0.6, 0.61, 0.62)),
    ]
    rows += [
        risk(name, epsilon, "lira", "balanced_accuracy", (0.5, 0.54, 0.58), ceiling),
        risk(name, epsilon, "lira", "advantage_oracle", (0.2, 0.25, 0.3), ceiling and 0.09),
        risk(name, epsilon, "loss", "tpr_at_fpr_0.01", (0.01, 0.02, 0.03)),
        risk(name, epsilon, "yeom", "attribute_gain_race, self", (0.0, 0.01, 0.02)),
        refused(name, epsilon, "lira", "tpr_at_fpr_0.01", "too coarse"),
        refused(name, epsilon, "lira", "tpr_at_fpr_0.001", "FPR 0.001 needs 10,000 non-members"),
    ]
    low, estimate, high = of_group
    groups = [
        GroupRow(name, "sex=Female", "test accuracy", 80, (estimate, low, high)),
        GroupRow(name, "sex=Female", "lira AUC", 80, (0.55, 0.5, 0.6)),
        GroupRow(name, "race=Asian, Pacific", "lira AUC", 80, (0.55, 0.5, 0.6)),
        GroupRow(name, "race=Other", "test accuracy", 9, note="refused: 9 rows, fewer than 50"),
    ]
    return rows, groups


@pytest.fixture
def folder(tmp_path):
    plain = sweep_of("none", None, (0.88, 0.9, 0.92), (0.68, 0.72, 0.76), (0.6, 0.7, 0.8))
    private = sweep_of(
        "dpsgd-1", 1.0, (0.81, 0.83, 0.85), (0.71, 0.75, 0.79), (0.5, 0.6, 0.7), 0.58
    )
    record = {
        "rows": [row.to_json() for rows, _ in (plain, private) for row in rows],
        "groups": [row.to_json() for _, groups in (plain, private) for row in groups],
    }
    (tmp_path / "metrics.json").write_bytes(seal(record))
    return tmp_path


@pytest.mark.parametrize(
    ("where", "meeting", "undecided"),
    [
        ("accuracy >= 0.8", ["none", "dpsgd-1"], []),
        ("accuracy>=0.89", [], ["none"]),
        ("accuracy >= 0.7 of sex=Female", ["dpsgd-1"], ["none"]),
        ("auc <= 0.57", ["none", "dpsgd-1"], []),
        ("auc <= 0.55", [], ["none", "dpsgd-1"]),
        ("auc <= 0.59 of canaries", ["dpsgd-1"], []),  # by its proof alone
        ("auc <= 0.57 of canaries", [], []),
        ("auc <= 0.6 of sex=Female, accuracy >= 0.85", ["none"], []),
        # Whoever guesses a column may well leave the model alone.
        ("attribute_accuracy_income <= 0.65", [], []),
        ("attribute_accuracy_income <= 0.93", ["none", "dpsgd-1"], []),
        ("auc <= 0.585 of sex=Female", ["dpsgd-1"], ["none"]),  # by the proof of the whole
        ("balanced_accuracy <= 0.6", ["none", "dpsgd-1"], []),
        ("balanced_accuracy <= 0.55", [], ["none", "dpsgd-1"]),
        # An oracle's threshold is chosen on what it is measured on: no proof speaks of it.
        ("advantage_oracle <= 0.2", [], []),
        # An attack was refused, and the others alone are not sure.
        ("tpr_at_fpr_0.01 <= 0.1", [], ["none", "dpsgd-1"]),
        ("auc <= 0.6 of race=Asian, Pacific", ["none", "dpsgd-1"], []),
        ("attribute_gain_race, self <= 0.1, auc <= 0.57", ["none", "dpsgd-1"], []),
    ],
)
def test_demands_are_met_at_the_safe_end(folder, where, meeting, undecided):
    advice = ask(folder, where=where)
    assert sorted(names(advice.meeting)) == sorted(meeting)
    assert sorted(names(advice.undecided)) == sorted(undecided)
    asked = ", ".join(demand.text for demand in advice.where)
    assert advice.text().startswith(f"Asked: {asked}.")
    assert advice.record()["where"] == [demand.text for demand in advice.where]
    # The number that was asked for stands beside the name.
    for candidate in (*advice.meeting, *advice.undecided):
        assert len(candidate.asked) == len(advice.where)
        assert "; ".join(candidate.asked) in advice.text()
    # What is printed is read back as the same demand.
    assert demands.parse(asked) == advice.where


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("accuracy", "cannot read 'accuracy'; write such as"),
        ("accuracy >= much", "'much' is no number"),
        ("accuracy >= nan", "'nan' is no number"),
        ("acuracy >= 0.8", "not measured in this sweep; did you mean 'accuracy'"),
        ("accuracy <= 0.8", "of accuracy more is better; turn the sign around"),
        ("auc >= 0.8 of canaries", "of auc less is better; turn the sign around"),
        ("accuracy >= 0.8 of sex=Male", "no such group; did you mean 'sex=Female'"),
        ("accuracy >= 0.8 of age=9", "not measured; run the sweep with groups=.age."),
        ("advantage <= 0.8 of sex=Female", "of a group there are utilities and auc only"),
        ("tpr_at_fpr_0.001 <= 0.1", "FPR 0.001 needs 10,000 non-members"),
        ("auc <= 0.8 of rows", "measured of all, canaries only"),
        ("accuracy >= 0.8 of race=Other", "refused: 9 rows, fewer than 50"),
        ("accuracy >= 0.8 of canaries", "measured of all only"),
    ],
)
def test_demands_that_nothing_speaks_of(folder, capsys, where, message):
    with pytest.raises(TargetError, match=message) as error:
        ask(folder, where=where)
    assert error.value.about == "where"
    assert cli.main(["advise", f"run={folder}", f"where={where}"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_takes_them_as_they_stand(folder, capsys):
    where = "accuracy >= 0.7 of sex=Female, auc <= 0.6 of canaries"
    assert cli.main(["advise", f"run={folder}", f"where={where}"]) == 0
    assert "Take dpsgd-1" in capsys.readouterr().out
    assert cli.main(["advise", f"run={folder}", "where=accuracy >= 0.99"]) == 1
    assert cli.main(["advise", f"run={folder}", f'where="{where}"']) == 0


def test_a_bound_without_an_upper_end_proves_nothing_alone():
    demand = Demand("epsilon_one_run", least=False, limit=2.0)
    bound = Number(1.0, 1.0, float("inf"))
    assert meets(demand, [bound]) == (False, True)
    assert meets(demand, [Number(1.0, 1.0, float("inf"), 1.5)]) == (True, True)
    assert meets(demand, []) == (False, False)
