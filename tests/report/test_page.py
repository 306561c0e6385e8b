"""Tests of report.page."""

import dataclasses

from dptrain.core.types import Mechanism, NoiseSource, Sampling, Setting
from dptrain.evaluation.rows import TEST_ACCURACY
from dptrain.privacy.statement import Circumstances, planned
from dptrain.report import tables
from dptrain.report.page import page
from dptrain.report.record import Record
from tests.helpers.reported import ROW
from tests.runs import make_recipe

PLAIN = Setting(
    "<u>",
    "none",
    None,
    1e-5,
    Mechanism(Sampling.POISSON, 50, 500, 40, 0.0, float("inf"), 50),
    make_recipe(0.1),
)


EMPTY = Record(name="n", rows=[])


def make_page(**parts):
    return page(dataclasses.replace(EMPTY, **parts), {})


def test_html_escapes():
    around = Circumstances(noise=NoiseSource.OS, preprocessing="<i>")
    text = make_page(
        name="<b>",
        rows=[dataclasses.replace(ROW, metric=TEST_ACCURACY, attack=None, note="<i>")],
        statements={"<u>": planned(PLAIN, around)},
        config={"name": "<p>"},
    )
    assert "<b>" not in text
    assert "<u>" not in text
    assert "&lt;b&gt;" in text


def test_page_shows_attacks_canaries_and_exposed_examples():
    rows = [
        ROW,
        dataclasses.replace(ROW, attack="loss", estimate=0.55),
        dataclasses.replace(ROW, examples="canaries", estimate=0.99),
    ]
    one = {
        "id": "row <7>",
        "place": 3,
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
    row = {"label": "ill", "row": {"age": "<41>"}}
    text = make_page(rows=rows, exposed={"dpsgd-8": exposed}, examples={"3": row})
    assert "&lt;41&gt;" in text
    image = {"label": "7", "image": "abcd"}
    drawn = make_page(rows=rows, exposed={"dpsgd-8": exposed}, examples={"3": image})
    assert 'src="data:image/png;base64,abcd"' in drawn
    assert "label 7: found in 5 of 8 models that learnt from it, AUC " in drawn
    asked = {"show_examples": False}
    hidden = make_page(rows=rows, exposed={"dpsgd-8": exposed}, config=asked)
    assert "show_examples=true puts them there" in hidden
    assert "puts them there" not in text  # a file of scores has no such key
    one["stands_out"] = False
    chance = make_page(rows=rows, exposed={"dpsgd-8": exposed})
    assert "No example stands out from what chance would show" in chance
    assert "most exposed examples" not in chance
    one["stands_out"] = True
    for part in (
        "on the canaries only",
        ".990",
        "most exposed examples (lira)",
        "row &lt;7&gt;",
        "5 / 8",
        "by no other attack",
    ):
        assert part in text
    assert tables.attacks(rows, "dpsgd-8")[1][1][0] == "loss"
