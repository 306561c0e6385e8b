"""Tables round bounds upwards and never hide a refusal or an alarm."""

import dataclasses

import pytest

from dptrain import report
from dptrain.judge import Row

ROW = Row("dpsgd-8", "dpsgd", 8.0, "lira", "auc", 0.5904, 0.5801, 0.6, 16, 100, 100, ceiling=0.86938)


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
    assert report.number(value) == nearest
    assert report.number(value, bound=True) == upwards


def test_cells():
    assert report.cell(ROW) == ".590 [.580, .600] <= .870"
    bound = dataclasses.replace(ROW, metric="epsilon_one_run", estimate=1.23999, low=1.23999, high=None, ceiling=8.0)
    assert report.cell(bound) == "1.239 <= 8.000"
    assert report.cell(None) == report.cell(dataclasses.replace(ROW, estimate=None)) == "-"


def test_refusals_and_alarms_are_said():
    refused = dataclasses.replace(ROW, estimate=None, low=None, high=None, note="refused: too few")
    assert "lira: refused: too few." in report.legend([ROW, refused])
    low = dataclasses.replace(refused, metric="tpr_at_fpr_0.001")
    assert "lira, tpr_at_fpr_0.001: refused: too few." in report.legend([ROW, low])
    assert report.warnings([ROW]) == []
    assert "CONTRADICTION: dpsgd-8, lira auc" in report.warnings([dataclasses.replace(ROW, contradicted=True)])[0]
    assert "INVALID" in report.warnings([dataclasses.replace(ROW, attack="blind", contradicted=True)])[0]


def test_html_escapes():
    page = report.page(
        "<b>", [dataclasses.replace(ROW, metric="test_accuracy", attack=None, note="<i>")], {"s": {"a": "<u>"}}, {}, {}, "<p>", {}
    )
    assert "<b>" not in page
    assert "<u>" not in page
    assert "&lt;b&gt;" in page


def test_page_shows_attacks_canaries_and_exposed_examples():
    rows = [ROW, dataclasses.replace(ROW, attack="loss", estimate=0.55), dataclasses.replace(ROW, examples="canaries", estimate=0.99)]
    one = {
        "id": "row <7>",
        "label": 3,
        "found": 5,
        "of": 8,
        "low": 0.24,
        "high": 0.91,
        "false_alarms": 1,
        "auc": 0.9,
        "p": 0.01,
        "stands_out": True,
    }
    alone = {name: {"found": 9, "only": 2, "ids": ["row <7>"]} for name in ("lira", "loss")}
    exposed = {
        "vulnerable": {"lira": [one], "loss": []},
        "stability": {"lira": 0.5, "loss": None},
        "agreement": {"fpr": 0.01, "pairs": [], "alone": alone},
    }
    page = report.page("n", rows, {}, {}, {"dpsgd-8": exposed}, "", {})
    for part in ("on the canaries only", ".990", "most exposed examples (lira)", "row &lt;7&gt;", "5 / 8", "by no other attack"):
        assert part in page
    assert report.attacks(rows, "dpsgd-8")[1][1][0] == "loss"
