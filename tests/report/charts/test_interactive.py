"""Charts of the page: each number of a specification is one of the record."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from dptrain.evaluation.rows import AUC, TEST_ACCURACY
from dptrain.privacy import pld
from dptrain.report.charts import interactive
from dptrain.report.record import Record, roc_of
from tests.report.test_advice import SWEEP


@pytest.fixture
def record():
    curve = (np.array([0.0, 0.1, 0.5, 1.0]), np.array([0.0, 0.4, 0.8, 1.0]))
    bound = pld.claimed_trade_off(2.0, 1e-5)
    names = dict.fromkeys(row.setting for row in SWEEP)
    rocs = [
        roc_of(name, {"loss": curve, "lira": curve}, bound if "dpsgd" in name else None, 1000)
        for name in names
    ]
    return Record(name="n", rows=SWEEP, rocs=rocs)


def values(specification):
    """The numbers of a chart, which may not reach for any elsewhere."""
    plain = json.loads(specification)
    assert '"url"' not in specification
    return plain["datasets"]["numbers"]


def test_every_number_of_the_charts_is_one_of_the_record(record):
    charts = interactive.charts(record)
    assert list(charts) == [
        "Utility against risk, measured and proved",
        "Risk of each setting, by attack",
        "ROC, logarithmic axes",
        "Precision and recall, as many members as others",
    ]
    accuracy = {row.setting: row for row in SWEEP if row.metric == TEST_ACCURACY}
    for value in values(charts["Utility against risk, measured and proved"]):
        row = accuracy[value["setting"]]
        assert (value["utility"], value["utility_low"]) == (row.estimate, row.low)
        [lira] = [row for row in SWEEP if (row.setting, row.attack) == (value["setting"], "lira")]
        assert value["attack"] == "lira"
        assert (value["estimate"], value["ceiling"]) == (lira.estimate, lira.ceiling)
    risks = {(row.setting, row.attack): row.estimate for row in SWEEP if row.metric == AUC}
    shown = values(charts["Risk of each setting, by attack"])
    assert {(each["setting"], each["attack"]): each["estimate"] for each in shown} == risks
    assert interactive.first_attack(record) == "lira"
    assert list(interactive.colours(record)) == record.settings


def test_nothing_of_a_name_ends_a_script(record):
    rows = [replace(row, setting="</script><b>") for row in SWEEP]
    rocs = [replace(record.rocs[0], setting="</script><b>")]
    for chart in interactive.charts(replace(record, rows=rows, rocs=rocs)).values():
        assert "<" not in chart
        assert "</script><b>" in json.dumps(json.loads(chart))
    assert "</script" not in interactive.library()


def test_a_run_without_numbers_has_no_charts():
    assert interactive.charts(Record(name="n", rows=[])) == {}


def test_a_refuted_setting_is_named_so_in_every_chart(record):
    rows = [replace(row, contradicted=row.setting == "dpsgd-8") for row in SWEEP]
    marked = replace(record, rows=rows).marked
    assert "dpsgd-8 (REFUTED)" in interactive.colours(marked)
    for chart in interactive.charts(marked).values():
        names = {value["setting"] for value in values(chart)}
        assert "dpsgd-8 (REFUTED)" in names
        assert "dpsgd-8" not in names


def test_labels_stand_apart_and_every_lonely_point_has_one():
    """Settings that lie on each other would write their names over each other."""
    rng = np.random.default_rng(0)
    for crowd in (0.3, 0.001):
        points = [
            {
                "setting": f"setting-{number}",
                **dict(zip(("estimate", "utility"), 0.6 + crowd * rng.random(2), strict=True)),
                **{"low": 0.5, "high": 0.95, "limit": 1.0},
                **{"utility_low": 0.4, "utility_high": 0.95},
            }
            for number in range(12)
        ]
        boxes = interactive.place(points)
        for (left, right, height), (start, end, there) in itertools.combinations(boxes, 2):
            assert right < start or end < left or abs(height - there) >= interactive.LINE
        placed = [point for point in points if "spot" in point]
        assert len(placed) == len(boxes)
        assert len(placed) >= (10 if crowd > 0.1 else 5)


def test_a_refused_utility_has_no_point_and_no_setting_shares_a_colour(record):
    """A sweep must not end with a traceback after its training."""
    rows = [
        replace(row, estimate=None, low=None, high=None, note="refused: few")
        if row.metric == TEST_ACCURACY and row.setting == "none"
        else row
        for row in SWEEP
    ]
    charts = interactive.charts(replace(record, rows=rows))
    shown = values(charts["Utility against risk, measured and proved"])
    assert "none" not in {each["setting"] for each in shown}
    every = [replace(row, estimate=None) if row.metric == TEST_ACCURACY else row for row in SWEEP]
    without = interactive.charts(replace(record, rows=every))
    assert "Utility against risk, measured and proved" not in without
    colours = interactive.colours(record)
    assert len(set(colours.values())) == len(colours) > 2


def test_precision_is_what_the_rates_give(record):
    """As many members as others: TPR / (TPR + FPR)."""
    fpr = np.linspace(0.0, 1.0, 41)
    long = replace(record.rocs[0], curves={"lira": (fpr, np.sqrt(fpr))})
    title = "Precision and recall, as many members as others"
    shown = values(interactive.charts(replace(record, rocs=[long]))[title])
    measured = [value for value in shown if value["attack"] == "lira"]
    assert len(measured) > 5
    for value in measured:
        recall = value["recall"]
        assert value["precision"] == pytest.approx(recall / (recall + recall**2))


def test_names_stand_where_place_put_them(record):
    """The marks of the specification, and not only the plan of them."""
    chart = json.loads(interactive.charts(record)["Utility against risk, measured and proved"])
    marks = [layer for layer in chart["layer"] if layer["mark"].get("type") == "text"]
    spots = {value["spot"] for value in chart["datasets"]["numbers"]}
    assert len(marks) == len(spots)
    for mark in marks:
        [test] = [step["filter"] for step in mark["transform"] if "spot" in str(step.get("filter"))]
        spot = int(test.rpartition(" ")[2])
        align, dx, dy = interactive.SPOTS[spot]
        assert (mark["mark"]["align"], mark["mark"]["dx"], mark["mark"]["dy"]) == (align, dx, dy)
