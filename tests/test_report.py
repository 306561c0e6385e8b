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
    assert report.cell(None) == report.cell(dataclasses.replace(ROW, estimate=None)) == "-"


def test_refusals_and_alarms_are_said():
    refused = dataclasses.replace(ROW, estimate=None, low=None, high=None, note="refused: too few")
    assert any("lira auc: refused: too few" in line for line in report.legend([ROW, refused]))
    assert report.warnings([ROW]) == []
    assert "CONTRADICTION: dpsgd-8, lira auc" in report.warnings([dataclasses.replace(ROW, contradicted=True)])[0]
    assert "INVALID" in report.warnings([dataclasses.replace(ROW, attack="blind", contradicted=True)])[0]


def test_html_escapes():
    page = report.page(
        "<b>", [dataclasses.replace(ROW, metric="test_accuracy", attack=None, note="<i>")], {"s": {"a": "<u>"}}, {}, "<p>", {}
    )
    assert "<b>" not in page
    assert "<u>" not in page
    assert "&lt;b&gt;" in page
