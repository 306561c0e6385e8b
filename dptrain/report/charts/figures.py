"""Values to matplotlib figures, and figures to pictures; no reading, no writing."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dptrain.evaluation.metrics import undominated
from dptrain.evaluation.rows import AUC, BLIND, TEST_ACCURACY, Row
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of
from dptrain.report.record import Record, Roc
from dptrain.report.tables import REFUTED, refuted

COLOURS = {
    "lira": "#0072b2",
    "lira_offline": "#56b4e9",
    "shadow": "#009e73",
    "loss": "#d55e00",
    "rmia": "#cc79a7",
    "rmia_offline": "#e69f00",
}
CEILING = "#444444"
DPI = 150


def colour_of(attack: str, attacks: Sequence[str]) -> str:
    """Of an attack among others, the same in every chart."""
    others = [name for name in attacks if name not in COLOURS]
    return (
        COLOURS[attack]
        if attack in COLOURS
        else to_hex(colormaps["tab20b"](others.index(attack) % 20))
    )


def _label(row: Row, compared: bool, broken: Collection[str]) -> str:
    """compared: several settings have no epsilon, so each needs its name; broken: those whose claim
    is refuted.
    """
    mark = REFUTED if row.setting in broken else ""
    return f"{_name(row, compared)}{mark}"


def _name(row: Row, compared: bool) -> str:
    if compared and (row.epsilon is None or row.defence != "dpsgd"):
        return row.setting.replace("_", " ")
    return "no DP" if row.epsilon is None else f"{'DP ' if compared else ''}{row.epsilon:g}"


PANELS = ("utility", "membership risk", "frontier")


def frontier(
    rows: Sequence[Row], utility: str = "accuracy", panels: Sequence[str] = PANELS
) -> Figure:
    """Utility against epsilon, beside that of the constant prediction, attack success against
    epsilon under its proved ceiling, and the two against each other: a panel each, or some of them.
    """
    size = (13, 4.6) if len(panels) > 1 else (6, 4.6)
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    drawn = dict(zip(panels, np.ravel(figure.subplots(1, len(panels))), strict=True))
    values = {
        row.setting: row
        for row in rows
        if row.metric == metric_of(utility) and row.estimate is not None
    }
    constant = values.pop(CONSTANT, None)
    title = f"test {UTILITIES[utility].title}"
    one_of = metric_of(utility) if UTILITIES[utility].regression else TEST_ACCURACY
    settings = [row for row in rows if row.metric == one_of and row.setting != CONSTANT]
    order = sorted(settings, key=lambda row: np.inf if row.epsilon is None else row.epsilon)
    place = {row.setting: float(index) for index, row in enumerate(order)}
    private = {row.defence for row in order if row.epsilon is not None}
    compared = sum(row.epsilon is None for row in order) > 1 or len(private) > 1
    broken = refuted(rows)
    for name, axes in drawn.items():
        if name == "frontier":
            continue
        axes.set_xticks(list(place.values()), [_label(row, compared, broken) for row in order])
        if compared:
            for text in axes.get_xticklabels():
                text.set(rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xlabel("" if compared else "epsilon")
        axes.grid(alpha=0.3)
    if (axes := drawn.get("utility")) is not None:
        shown = [values[row.setting] for row in order if row.setting in values]
        at = [place[row.setting] for row in shown]
        _points(axes, at, shown, "#333333", title, not compared)
        _draw_constant(axes, constant)
        axes.set_title("utility", loc="left")
        axes.set_ylabel(title)
    if (axes := drawn.get("membership risk")) is not None:
        _draw_risk(axes, rows, place, joined=not compared)
    if (axes := drawn.get("frontier")) is not None:
        _draw_frontier(axes, rows, values, compared, utility)
    return figure


def _draw_constant(axes: Axes, constant: Row | None) -> None:
    """The utility of the constant prediction, unless it lies so far off that the settings could no
    longer be told apart.
    """
    low, high = axes.get_ylim()
    if constant is None or constant.estimate is None:
        return
    if 2 * low - high <= constant.estimate <= 2 * high - low:
        axes.axhline(constant.estimate, color="#999999", lw=1, ls=":", label=CONSTANT)
        axes.legend(fontsize=8, frameon=False)


def _draw_risk(axes: Axes, rows: Sequence[Row], place: Mapping[str, float], joined: bool) -> None:
    """AUC of every attack on every setting, under the proved ceilings."""
    aucs = [
        row
        for row in rows
        if row.metric == AUC and row.attack and row.attack != BLIND and row.examples != "rows"
    ]
    measured = [row for row in aucs if row.estimate is not None]
    attacks = list(dict.fromkeys(row.attack or "" for row in measured))
    for number, attack in enumerate(attacks):
        of_attack = [row for row in measured if row.attack == attack]
        shift = 0.08 * (number - (len(attacks) - 1) / 2)
        at = [place[row.setting] + shift for row in of_attack]
        _points(axes, at, of_attack, colour_of(attack, attacks), attack, joined)
    ceilings = {row.setting: row.ceiling for row in aucs if row.ceiling is not None}
    for number, (setting, value) in enumerate(ceilings.items()):
        label = "" if number else "proved ceiling"
        ends = place[setting] - 0.3, place[setting] + 0.3
        axes.hlines(value, *ends, color=CEILING, lw=2, label=label)
    axes.axhline(0.5, color="#999999", lw=1, ls=":")
    axes.set_title("membership risk", loc="left")
    axes.set_ylabel("attack AUC")
    if aucs:  # below, where it covers neither a point nor a ceiling
        anchor = (0.5, -0.14)
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=anchor, ncols=3)


def _draw_frontier(
    axes: Axes, rows: Sequence[Row], values: Mapping[str, Row], compared: bool, utility: str
) -> None:
    """Utility of each setting against the AUC of its strongest attack."""
    strongest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.estimate or 0.0):
        attacked = row.attack and row.attack != BLIND and row.metric == AUC
        if attacked and row.estimate is not None and row.setting in values:
            strongest[row.setting] = row
    sign = 1 if UTILITIES[utility].higher else -1
    for setting, row in strongest.items():
        name = _label(row, compared, refuted(rows))
        name = name if compared else f"{name} ({row.attack})"
        _draw_setting(axes, row, values[setting], name, compared)
    if compared:
        points = [
            (row.estimate or 0.0, sign * (values[setting].estimate or 0.0))
            for setting, row in strongest.items()
        ]
        best = [(points[index][0], sign * points[index][1]) for index in undominated(points)]
        axes.plot(*zip(*best, strict=True), color="#0072b2", lw=1, drawstyle="steps-post", zorder=0)
    _draw_proved(axes, strongest, values)
    axes.axvline(0.5, color="#999999", lw=1, ls=":")
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)
    better = "up" if sign > 0 else "down"
    axes.set_title(f"frontier: {better} and left is better", loc="left")
    axes.set_xlabel("AUC of the strongest attack")
    axes.set_ylabel(f"test {UTILITIES[utility].title}")


def _draw_proved(axes: Axes, strongest: Mapping[str, Row], values: Mapping[str, Row]) -> None:
    """The frontier of utility against proved risk: private settings at their ceilings."""
    points = sorted(
        (row.ceiling, values[setting].estimate or 0.0)
        for setting, row in strongest.items()
        if row.ceiling is not None
    )
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=CEILING,
            marker="|",
            ms=9,
            mew=2,
            lw=1,
            ls="--",
            label="at the proved ceiling",
            zorder=0,
        )
        axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_setting(axes: Axes, risk: Row, utility: Row, name: str, compared: bool) -> None:
    """A point with its whiskers, and its name where neither they nor a better setting are: to the
    right, and a little below.
    """
    bars = axes.errorbar(
        risk.estimate or 0.0,
        utility.estimate or 0.0,
        xerr=_error([risk]),
        yerr=_error([utility]),
        fmt="o",
        color="#333333",
        capsize=0 if compared else 3,
    )
    if compared:  # many whiskers hide the points
        for line in bars.lines[2]:
            line.set(color="#bbbbbb", linewidth=0.7)
    axes.annotate(
        name,
        (risk.estimate, utility.estimate),
        xytext=(4, 3) if compared else (7, -10),
        textcoords="offset points",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0},
    )


def _error(rows: Sequence[Row]) -> np.ndarray:
    limits = [row.interval for row in rows if row.interval is not None]
    below = [estimate - low for estimate, low, _ in limits]
    above = [high - estimate for estimate, _, high in limits]
    return np.array([below, above])


def _points(
    axes: Axes, x: Sequence[float], rows: Sequence[Row], colour: str, label: str, joined: bool
) -> None:
    estimates = np.array([row.estimate for row in rows], dtype=np.float64)
    axes.errorbar(
        x,
        estimates,
        yerr=_error(rows),
        fmt="o-" if joined else "o",
        ms=4,
        lw=1,
        capsize=3,
        color=colour,
        label=label,
    )


def roc(curves: Sequence[Roc]) -> Figure:
    """ROC of every attack on logarithmic axes, a panel a setting, with the proved bound over it.
    The left edge is the smallest FPR that the non-members resolve (10 of them).
    """
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    width = max(3.6 * columns, 6.5)
    most = max(len(item.curves) for item in curves)
    height = 3.7 * lines + 0.5 + 0.1 * most
    figure = Figure(figsize=(width, height), dpi=DPI)
    panels = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    for panel, item in zip(panels, curves, strict=False):
        _draw_roc(panel, item)
    panels[0].set_ylabel("true positive rate")
    handles = _handles(panels)
    across = min(len(handles), int(width / 1.8))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=across,
        frameon=False,
        fontsize=9,
    )
    _set_margins(figure, lines, columns, 0.21 * -(-len(handles) // across))
    return figure


def _draw_roc(panel: Axes, item: Roc) -> None:
    """The ROC of one setting."""
    edge = item.edge
    line = np.logspace(np.log10(edge), 0, 50)
    panel.plot(line, line, color="#999999", lw=1, ls=":", label="chance")
    for attack, (fpr, tpr) in item.curves.items():
        panel.plot(
            fpr,
            tpr,
            drawstyle="steps-post",
            lw=1.3,
            color=colour_of(attack, list(item.curves)),
            label=attack,
        )
    if item.bound is not None:
        panel.plot(*item.bound, color=CEILING, lw=1.5, ls="--", label="proved bound")
    panel.set(
        xscale="log",
        yscale="log",
        xlim=(edge, 1),
        ylim=(edge, 1.2),
        title=item.setting,
        xlabel="false positive rate",
    )
    panel.grid(alpha=0.3, which="major")


def precision(item: Roc) -> Figure:
    """Of those that each attack accuses the share that are members, against the share of the
    members that it accuses, where there are as many members as others; and what is proved.
    """
    figure = Figure(figsize=(6.5, 4.6), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    for attack, (fpr, tpr) in item.curves.items():
        known = (fpr > 0) & (tpr > 0)
        shares = tpr[known] / (tpr + fpr)[known]
        axes.plot(tpr[known], shares, color=colour_of(attack, list(item.curves)), label=attack)
    if item.bound is not None:
        fpr, tpr = (part[item.bound[0] > 0] for part in item.bound)
        axes.plot(tpr, tpr / (tpr + fpr), color=CEILING, ls="--", label="proved bound")
    axes.axhline(0.5, color="#999999", lw=1, ls=":", label="chance")
    axes.set(xlim=(0, 1), ylim=(0.4, 1.02), xlabel="recall", ylabel="precision", title=item.setting)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _handles(panels: Iterable[Axes]) -> dict[str, Any]:
    """What a legend of some panels names."""
    return {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }


COLUMN = 3.4
"""Inches of a column of a paper of two."""
PAPER: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
"""One style for all figures of a paper; letters stay letters, as journals ask."""


def for_paper(record: Record, kind: str) -> dict[str, bytes]:
    """Name -> a figure as a file of this kind, each as wide as one column."""
    with rc_context(PAPER):
        drawn = {}
        for panel in PANELS:
            figure = frontier(record.rows, record.utility, [panel])
            figure.set_size_inches(COLUMN, 0.8 * COLUMN)
            _move_legend(figure)
            drawn[panel.replace(" ", "_")] = figure
        for item in record.rocs:
            figure = Figure(figsize=(COLUMN, 1.1 * COLUMN), layout="constrained", dpi=DPI)
            axes = figure.subplots()
            _draw_roc(axes, item)
            axes.set_ylabel("true positive rate")
            _move_legend(figure)
            drawn[f"roc_{item.setting}"] = figure
        files = [image(figure, kind) for figure in drawn.values()]
        return dict(zip(file_names(drawn), files, strict=True))


def file_names(names: Iterable[str]) -> list[str]:
    """Names of files on any disk, each once: of letters, digits, dots, dashes and underscores, and
    numbered where two would be the same.
    """
    made: list[str] = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        free = (f"{safe}_{number}" for number in itertools.count(2))
        made.append(next(each for each in itertools.chain([safe], free) if each not in made))
    return made


def _move_legend(figure: Figure) -> None:
    """Below the axes, where a small figure has room for it."""
    said = {axes.get_ylabel() for axes in figure.axes}
    named = {label: each for label, each in _handles(figure.axes).items() if label not in said}
    for axes in figure.axes:
        if (legend := axes.get_legend()) is not None:
            legend.remove()
    if named:
        figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False
        )


def _set_margins(figure: Figure, lines: int, columns: int, legend: float) -> None:
    """Place a grid of panels above a legend of this height, in inches: their labels have all the
    same size, and matplotlib's own layout takes a second a figure.
    """
    width, height = figure.get_size_inches()
    left, right, top, bottom, across, down = 0.65, 0.15, 0.35, legend + 0.7, 0.5, 0.9
    each = (width - left - right - across * (columns - 1)) / columns
    high = (height - top - bottom - down * (lines - 1)) / lines
    figure.subplots_adjust(
        left / width,
        bottom / height,
        1 - right / width,
        1 - top / height,
        across / each,
        down / high,
    )


DATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What would make two pictures of the same numbers different files."""


def image(figure: Figure, kind: str) -> bytes:
    """A figure as a file of this kind (`png`, `svg`, `pdf`)."""
    _lay_out(figure)
    buffer = io.BytesIO()
    # So that the same numbers give the same file: else names in it are drawn at random.
    with rc_context({"svg.hashsalt": "dptrain"}):
        figure.savefig(buffer, format=kind, metadata=DATED.get(kind))
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _lay_out(figure: Figure) -> None:
    """Place the parts of a figure, which matplotlib else does anew, and twice, for each picture."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
