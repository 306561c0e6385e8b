"""Tables round bounds upwards and never hide a refusal or an alarm."""

import dataclasses

import pytest

from dptrain.evaluation.rows import ONE_RUN, tpr_at
from dptrain.report import tables
from tests import fleets
from tests.helpers.reported import ROW
from tests.helpers.rows import row


def test_the_table_names_the_strongest_attack_whatever_it_is():
    rows = [
        row(None, 0.9, metric="test_accuracy"),
        row("lira", 0.502),
        row("rmia", 0.52),
        row("of_a_package", 0.61),
    ]
    head, body = tables.summary(rows)
    assert body[0][head.index("strongest AUC")] == ".610 [.600, .620] of_a_package"
    head, body = tables.summary(rows[:1])
    assert body[0][head.index("strongest AUC")] == "-"


@pytest.mark.parametrize(
    ("value", "nearest", "upwards"),
    [
        (0.86938, ".869", ".870"),
        (0.0144, ".0144", ".0144"),
        (0.01441, ".0144", ".0145"),
        (1.0, "1.000", "1.000"),
        (0.5, ".500", ".500"),
        (-0.012, "-.0120", "-.0120"),
    ],
)
def test_numbers(value, nearest, upwards):
    assert tables.number(value) == nearest
    assert tables.number(value, bound=True) == upwards


def test_cells():
    assert tables.cell(ROW) == ".590 [.580, .600] <= .870"
    bound = dataclasses.replace(
        ROW, metric=ONE_RUN, estimate=1.23999, low=1.23999, high=None, ceiling=8.0
    )
    assert tables.cell(bound) == "1.239 <= 8.000"
    assert tables.cell(None) == tables.cell(dataclasses.replace(ROW, estimate=None)) == "-"


def test_refusals_and_alarms_are_said():
    refused = dataclasses.replace(ROW, estimate=None, low=None, high=None, note="refused: too few")
    assert "lira: refused: too few." in tables.legend([ROW, refused])
    low = dataclasses.replace(refused, metric=tpr_at(0.001))
    assert "tpr_at_fpr_0.001 of lira: refused: too few." in tables.legend([ROW, low])
    assert tables.warnings([ROW]) == []
    assert (
        "CONTRADICTION: dpsgd-8, lira auc"
        in tables.warnings([dataclasses.replace(ROW, contradicted=True)])[0]
    )
    assert (
        "INVALID"
        in tables.warnings([dataclasses.replace(ROW, attack="blind", contradicted=True)])[0]
    )


def inferred(attack, metric, limits):
    low, estimate, high = limits
    about = ("none", "none", None, attack, f"{metric}_income")
    return fleets.row(*about, estimate, low, high, 8, 100, 100)


def test_a_column_is_given_away_only_where_members_are_guessed_better():
    """The attack whose interval begins highest speaks, though another has the greater estimate; a
    model that knows more of members and others alike gives nobody away.
    """
    rows = [
        inferred("imputation", "attribute_accuracy", (0.49, 0.5, 0.51)),
        inferred("imputation", "attribute_advantage", (-0.01, 0.0, 0.01)),
        inferred("yeom", "attribute_accuracy", (0.5, 0.6, 0.7)),
        inferred("yeom", "attribute_gain", (-0.02, 0.07, 0.16)),
        inferred("yeom", "attribute_advantage", (0.01, 0.02, 0.03)),
        inferred("csmia", "attribute_accuracy", (0.5, 0.55, 0.6)),
        inferred("csmia", "attribute_gain", (0.01, 0.04, 0.07)),
        inferred("csmia", "attribute_advantage", (-0.01, 0.05, 0.11)),
    ]
    [line] = tables.said_of_attributes(rows)
    assert line == (
        "Setting none, column 'income': csmia is right of .550 [.500, .600] of the members, a "
        "guess without the model of .500 [.490, .510]: a difference of .0400 [.0100, .0700] (the "
        "model knows more). That a row was trained on makes yeom right more often by .0200 "
        "[.0100, .0300] (it gives the value away)."
    )
    alike = [row for row in rows if row.attack != "yeom"]
    [line] = tables.said_of_attributes(alike)
    assert line.endswith("right more often by .0500 [-.0100, .110] (not told apart from 0).")
    [(head, body)] = tables.attributes(rows).values()
    assert head[1:3] == ["attack", "right of members"]
    assert [line[1] for line in body] == ["imputation", "yeom", "csmia"]
    assert body[0][4] == "-"
    assert tables.said_of_attributes(rows[:2]) == []
