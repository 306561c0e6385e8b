"""Charts that a reader changes in a browser: Vega-Lite specifications of a record, by Altair.

Each listens to two parameters, which the page's controls set: `shown`, the settings that are drawn,
and `attack`. Of few settings the colours are Okabe and Ito's, which the colour-blind tell apart;
those of the frontier differ in shape too. A mark says its numbers when the pointer rests on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from dptrain.evaluation.rows import AUC, BLIND, Row
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of
from dptrain.report.charts.figures import colour_of
from dptrain.report.reading import strongest
from dptrain.report.record import Record

PALETTE = [
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a", "#b8a900"),
    *("#aa3377", "#44aa99", "#999933", "#aa4499", "#88ccee", "#6a5acd", "#2e8b57", "#cc6677"),
]
"""Okabe and Ito (2008), whose black and yellow are a grey and an ochre here, that show on black and
on white; then Tol's muted colours.
"""
HEIGHT = 320
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Values = list[dict[str, Any]]
Drawn = tuple[Chart, Values]
"""A chart, and the numbers that its marks are made of."""
NUMBERS = "numbers"
"""What a chart calls them: Altair takes seconds to look at ten thousand."""


@cache
def library() -> str:
    """Vega-Lite and what shows it, as one script that asks nothing of a network."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")


def charts(record: Record) -> dict[str, str]:
    """Title -> specification as JSON that may stand in a page."""
    settings = record.settings
    drawn: dict[str, Drawn | None] = {
        "Utility against risk, measured and proved": _frontier(record, settings),
        "Risk of each setting, by attack": _risk(record, settings),
        "ROC, logarithmic axes": _roc(record, settings),
        "Precision and recall, as many members as others": _precision(record, settings),
        "Epsilon: asked for, proved, measured": _epsilon(record, settings),
    }
    return {title: _embedded(*parts) for title, parts in drawn.items() if parts is not None}


def colours(record: Record) -> dict[str, str]:
    """The colour of each setting, which is the same in every chart."""
    return dict(zip(record.settings, _repeated(len(record.settings)), strict=True))


def first_attack(record: Record) -> str:
    """The attack whose ROC is shown first: the strongest on the setting that leaks most."""
    attacks = list(dict.fromkeys(attack for roc in record.rocs for attack in roc.curves))
    leaks = [strongest(record.rows, name) for name in record.settings]
    ranked = sorted((row for row in leaks if row), key=lambda row: -(row.estimate or 0.0))
    names = [row.attack or "" for row in ranked if row.attack in attacks]
    return [*names, *attacks, ""][0]


def _embedded(chart: Chart, values: Values) -> str:
    """With its numbers, and without what would end a script of a page."""
    plain = {**chart.to_dict(), "datasets": {NUMBERS: values}}
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _shown(settings: Sequence[str]) -> alt.Parameter:
    return alt.param(name="shown", value=list(settings))


def _of_shown(chart: alt.Chart) -> alt.Chart:
    drawn: alt.Chart = chart.transform_filter("indexof(shown, datum.setting) >= 0")
    return drawn


def _colour(settings: Sequence[str]) -> dict[str, Any]:
    """Colour and shape of settings, which are the same in every chart."""
    scale = alt.Scale(domain=list(settings), range=_repeated(len(settings)))
    return {"color": alt.Color("setting:N", scale=scale, legend=None)}


def _repeated(count: int) -> list[str]:
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def _numbers(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting,
        "attack": row.attack or "",
        "estimate": row.estimate,
        "low": row.low,
        "high": row.high,
        "ceiling": row.ceiling,
        "limit": 1.0 if row.ceiling is None else row.ceiling,
    }


def _frontier(record: Record, settings: Sequence[str]) -> Drawn | None:
    """Utility of each setting against the AUC of its strongest attack and against its ceiling,
    which is 1 where nothing is proved.
    """
    utility = record.utility
    values: Values = []
    for row in record.rows:
        worst = strongest(record.rows, row.setting)
        chosen = row.metric == metric_of(utility) and row.estimate is not None
        if chosen and row.setting != CONSTANT and worst is not None:
            of = {"utility": row.estimate, "utility_low": row.low, "utility_high": row.high}
            values.append(_numbers(worst) | of)
    if not values:
        return None
    title = f"test {UTILITIES[utility].title}"
    base = _of_shown(alt.Chart(alt.NamedData(name=NUMBERS)))
    x, y = _axis("estimate", "AUC: strongest attack, and ceiling"), _axis("utility", title)
    tooltip = _tooltip(
        "setting",
        "attack",
        estimate="AUC",
        low="low",
        high="high",
        limit="any attack at most",
        utility=title,
        utility_low="low ",
        utility_high="high ",
    )
    whiskers = [
        base.mark_rule().encode(alt.X("low:Q"), alt.X2("high:Q"), y, **_colour(settings)),
        base.mark_rule().encode(
            x, alt.Y("utility_low:Q"), alt.Y2("utility_high:Q"), **_colour(settings)
        ),
    ]
    layers = [
        base.mark_rule(strokeDash=[4, 4]).encode(x, alt.X2("limit:Q"), y, **_colour(settings)),
        base.mark_tick(orient="vertical", thickness=3, size=22).encode(
            alt.X("limit:Q"), y, tooltip=tooltip, **_colour(settings)
        ),
        *whiskers,
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x, y, alt.Shape("setting:N", legend=None), tooltip=tooltip, **_colour(settings)
        ),
        *_labels(base, values, x, y),
    ]
    return _layered(layers, settings), values


SPOTS = [
    (align, 8 if align == "left" else -8, dy)
    for dy in (-10, 16, -24, 30, -38)
    for align in ("left", "right")
]
"""Where a label may stand about its point: its alignment, and its distance in pixels."""
WIDE, HIGH, LETTER, LINE = 380.0, 260.0, 6.0, 12.0
"""About as many pixels have the chart, a letter, and a line of text."""


def _labels(base: alt.Chart, values: Values, x: Any, y: Any) -> list[Any]:
    """The names of the settings beside their points."""
    place(values)
    return [
        base.transform_filter(f"datum.spot === {spot}")
        .mark_text(align=SPOTS[spot][0], dx=SPOTS[spot][1], dy=SPOTS[spot][2])
        .encode(x, y, text="setting:N")
        for spot in sorted({value["spot"] for value in values if "spot" in value})
    ]


def place(values: Values) -> list[tuple[float, float, float]]:
    """Give each value the number of the spot where its name lies over no other; a name that finds
    no room gets none, and its point still tells it. Returns the left end, right end and height of
    the names.
    """
    across = _share(values, "estimate", "low", "high", "limit")
    up = _share(values, "utility", "utility_low", "utility_high")
    taken: list[tuple[float, float, float]] = []
    for value in values:
        length = LETTER * len(value["setting"])
        at, height = WIDE * across(value["estimate"]), -HIGH * up(value["utility"])
        for spot, (align, dx, dy) in enumerate(SPOTS):
            left = at + dx - (length if align == "right" else 0.0)
            free = all(
                left > right or left + length < start or abs(height + dy - there) >= LINE
                for start, right, there in taken
            )
            if free and left >= 0 and left + length <= WIDE + 60:
                taken.append((left, left + length, height + dy))
                value["spot"] = spot
                break
    return taken


def _share(values: Values, *fields: str) -> Callable[[float], float]:
    """From a number to its share of the range of some fields."""
    numbers = [value[name] for value in values for name in fields if value[name] is not None]
    least, most = min(numbers, default=0.0), max(numbers, default=1.0)
    return lambda number: (number - least) / ((most - least) or 1.0)


def _risk(record: Record, settings: Sequence[str]) -> Drawn | None:
    """AUC of every attack on each setting, under the ceiling."""
    values = [
        _numbers(row)
        for row in record.rows
        if row.metric == AUC
        and row.attack not in (None, BLIND)
        and row.examples == "all"
        and row.estimate is not None
    ]
    if not values:
        return None
    base = _of_shown(alt.Chart(alt.NamedData(name=NUMBERS)))
    x = alt.X("setting:N", sort=list(settings), title=None, axis=alt.Axis(labelAngle=-30))
    attacks = list(dict.fromkeys(value["attack"] for value in values))
    offset = alt.XOffset("attack:N", sort=attacks)
    colour = alt.Color(
        "attack:N",
        scale=alt.Scale(domain=attacks, range=[colour_of(name, attacks) for name in attacks]),
        legend=alt.Legend(orient="bottom", columns=4, title=None),
    )
    tooltip = _tooltip(
        "setting", "attack", estimate="AUC", low="low", high="high", limit="any attack at most"
    )
    layers = [
        base.mark_tick(orient="horizontal", thickness=2, size=40, color="#777777").encode(
            x, _axis("limit", "AUC of each attack, and ceiling", "y"), tooltip=tooltip
        ),
        base.mark_rule().encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), offset, colour),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            x, alt.Y("estimate:Q"), offset, colour, tooltip=tooltip
        ),
    ]
    return _layered(layers, settings), values


def _roc(record: Record, settings: Sequence[str]) -> Drawn | None:
    """The ROC of one attack on every setting, and what is proved of each."""
    if not record.rocs:
        return None
    edge = min(roc.edge for roc in record.rocs)
    values = [
        {"setting": setting, "attack": attack, "fpr": x, "tpr": y}
        for setting, attack, x, y in _points(record, POINT_STEP)
        if x >= edge and y >= edge
    ]
    base = _of_shown(alt.Chart(alt.NamedData(name=NUMBERS)))
    scale = alt.Scale(type="log", domain=[edge, 1], clamp=True)
    x = alt.X("fpr:Q", scale=scale, title="false positive rate")
    y = alt.Y("tpr:Q", scale=scale, title="true positive rate")
    tooltip = _tooltip("setting", "attack", fpr="FPR", tpr="TPR")
    ends: Values = [{"fpr": end, "tpr": end} for end in (edge, 1.0)]
    diagonal = alt.Chart(alt.InlineData(values=ends))
    layers = [
        diagonal.mark_line(strokeDash=[1, 3], color="#777777").encode(x, y),
        base.transform_filter("datum.attack == ''")
        .mark_line(strokeDash=[6, 4], strokeWidth=1.5)
        .encode(x, y, tooltip=tooltip, **_colour(settings)),
        base.transform_filter("datum.attack == attack")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(x, y, tooltip=tooltip, **_colour(settings)),
    ]
    return _with_attack(layers, settings, record), values


def _with_attack(layers: Sequence[alt.Chart], settings: Sequence[str], record: Record) -> Chart:
    drawn: Chart = _layered(layers, settings).add_params(
        alt.param(name="attack", value=first_attack(record))
    )
    return drawn


def _points(record: Record, step: int) -> Iterator[tuple[str, str, float, float]]:
    """Setting, attack, false and true positive rate of each `step`-th point of the ROCs; the bound
    of a setting has no attack.
    """
    for roc in record.rocs:
        curves = {**roc.curves, **({"": roc.bound} if roc.bound is not None else {})}
        for attack, (fpr, tpr) in curves.items():
            for x, y in zip(fpr[::step], tpr[::step], strict=True):
                yield roc.setting, attack, float(x), float(y)


def _precision(record: Record, settings: Sequence[str]) -> Drawn | None:
    """Of those that one attack accuses, the share that are members, against the share of members
    that it accuses, on every setting; and the most that is proved of each.
    """
    values: Values = [
        {"setting": setting, "attack": attack, "recall": y, "precision": y / (x + y)}
        for setting, attack, x, y in _points(record, 2 * POINT_STEP)
        if x > 0 and y > 0
    ]
    if not values:
        return None
    base = _of_shown(alt.Chart(alt.NamedData(name=NUMBERS)))
    x = alt.X("recall:Q", scale=alt.Scale(domain=[0, 1]), title="recall: share of the members")
    y = alt.Y("precision:Q", scale=alt.Scale(domain=[0.4, 1], clamp=True), title="precision")
    tooltip = _tooltip("setting", "attack", recall="recall", precision="precision")
    layers = [
        base.transform_filter("datum.attack == ''")
        .mark_line(strokeDash=[6, 4], strokeWidth=1.5)
        .encode(x, y, tooltip=tooltip, **_colour(settings)),
        base.transform_filter("datum.attack == attack")
        .mark_line(strokeWidth=2)
        .encode(x, y, tooltip=tooltip, **_colour(settings)),
    ]
    return _with_attack(layers, settings, record), values


POINT_STEP = 2
"""Of the points of a ROC each second is drawn, so that a page stays small."""


def _epsilon(record: Record, settings: Sequence[str]) -> Drawn | None:
    """What was asked for, what is proved, and the largest lower bound that was measured."""
    values: Values = []
    for name, statement in record.statements.items():
        if not statement.private or statement.epsilon is None:
            continue
        values.append({"setting": name, "kind": "proved", "epsilon": statement.epsilon})
        if statement.target_epsilon is not None:
            asked = {"setting": name, "kind": "asked for", "epsilon": statement.target_epsilon}
            values.append(asked)
        after = statement.evaluated
        if after is not None and after.measured is not None:
            measured = {"setting": name, "kind": "measured, at least"}
            values.append(measured | {"epsilon": after.measured.epsilon})
            if after.measured.reach is not None:
                most = {"setting": name, "kind": "most that the audit can show"}
                values.append(most | {"epsilon": after.measured.reach})
    if not values:
        return None
    base = _of_shown(alt.Chart(alt.NamedData(name=NUMBERS)))
    shapes = alt.Shape(
        "kind:N",
        scale=alt.Scale(
            domain=KINDS,
            range=["circle", "stroke", "triangle-up", "triangle-down"],
        ),
        legend=alt.Legend(orient="bottom", title=None, columns=2),
    )
    points = base.mark_point(size=160, strokeWidth=2).encode(
        alt.X("epsilon:Q", title="epsilon"),
        alt.Y("setting:N", sort=list(settings), title=None),
        shapes,
        tooltip=_tooltip("setting", "kind", epsilon="epsilon"),
        **_colour(settings),
    )
    return _layered([points], settings, height=60 + 30 * len(settings)), values


KINDS = ["asked for", "proved", "measured, at least", "most that the audit can show"]


def _layered(layers: Sequence[alt.Chart], settings: Sequence[str], height: int = HEIGHT) -> Chart:
    chart: Chart = (
        alt.layer(*layers)
        .add_params(_shown(settings))
        .properties(width="container", height=height, background="transparent")
    )
    return chart


def _axis(field: str, title: str, channel: str = "") -> Any:
    """An axis that does not start at 0: differences are what is read."""
    scale = alt.Scale(zero=False, padding=12)
    vertical = channel == "y" or field == "utility"
    ticks = alt.Axis(tickCount=8)
    return (alt.Y if vertical else alt.X)(f"{field}:Q", title=title, scale=scale, axis=ticks)


def _tooltip(*names: str, **numbers: str) -> list[alt.Tooltip]:
    shown = [alt.Tooltip(f"{name}:N", title=name) for name in names]
    return shown + [
        alt.Tooltip(f"{field}:Q", title=title, format=".3f") for field, title in numbers.items()
    ]
