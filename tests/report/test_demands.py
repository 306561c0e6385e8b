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


def sweep_of(name, epsilon, accuracy, of_group, canaries, ceiling=None):
    rows = [
        risk(name, epsilon, None, "test_accuracy", accuracy),
        risk(name, epsilon, "loss", "auc", (0.5, 0.51, 0.52), ceiling),
        risk(name, epsilon, "lira", "auc", (0.5, 0.53, 0.56), ceiling),
        risk(name, epsilon, "lira", "auc", canaries, ceiling, "canaries"),
        risk(name, epsilon, "imputation", "attribute_accuracy_income", (0.9, 0.91, 0.92)),
        risk(name, epsilon, "yeom", "attribute_accuracy_income", (0.6, 0.61, 0.62)),
    ]
    low, estimate, high = of_group
    groups = [
        GroupRow(name, "sex=Female", "test accuracy", 80, (estimate, low, high)),
        GroupRow(name, "sex=Female", "lira AUC", 80, (0.55, 0.5, 0.6)),
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
        ("attribute_accuracy_income <= 0.65", ["none", "dpsgd-1"], []),
    ],
)
def test_demands_are_met_at_the_safe_end(folder, where, meeting, undecided):
    advice = ask(folder, where=where)
    assert sorted(names(advice.meeting)) == sorted(meeting)
    assert sorted(names(advice.undecided)) == sorted(undecided)
    asked = ", ".join(demand.text for demand in advice.where)
    assert advice.text().startswith(f"Asked: {asked}.")
    assert advice.record()["where"] == [demand.text for demand in advice.where]
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
        ("accuracy >= 0.8 of sex=Male", "did you mean 'sex=Female'.*groups=.sex."),
        ("accuracy >= 0.8 of race=Other", "refused: 9 rows, fewer than 50"),
        ("accuracy >= 0.8 of canaries", "not measured in this sweep"),
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
