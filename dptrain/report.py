"""Tables, figure files and one self-contained HTML page."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dptrain.judge import Row

COLUMNS: tuple[tuple[str, str | None, str], ...] = (
    ("test accuracy", None, "test_accuracy"),
    ("train accuracy", None, "train_accuracy"),
    ("LiRA AUC", "lira", "auc"),
    ("LiRA offline AUC", "lira_offline", "auc"),
    ("LiRA TPR @ 1% FPR", "lira", "tpr_at_fpr_0.01"),
    ("LiRA TPR @ .1% FPR", "lira", "tpr_at_fpr_0.001"),
    ("RMIA AUC", "rmia", "auc"),
    ("RMIA offline AUC", "rmia_offline", "auc"),
    ("loss AUC", "loss", "auc"),
    ("loss TPR @ 1% FPR", "loss", "tpr_at_fpr_0.01"),
    ("shadow AUC", "shadow", "auc"),
    ("shadow TPR @ 1% FPR", "shadow", "tpr_at_fpr_0.01"),
)
REFUTED = " (REFUTED)"
SHOWN = 6
"""Columns of the summary: the first of COLUMNS that the run has. Everything is in the report and in metrics.json."""


MEASURES: tuple[tuple[str, str], ...] = (
    ("AUC", "auc"),
    ("balanced accuracy", "balanced_accuracy"),
    ("per class", "balanced_accuracy_per_class"),
    ("oracle threshold", "balanced_accuracy_oracle"),
    ("TPR @ 1% FPR", "tpr_at_fpr_0.01"),
    ("TPR @ .1% FPR", "tpr_at_fpr_0.001"),
    ("PPV 1:10", "ppv_1_to_10"),
    ("epsilon at least", "epsilon_one_run"),
)
"""Columns of the table of attacks."""


def number(value: float | None, bound: bool = False) -> str:
    """Three decimals, four below .1, no leading zero. An upper bound is rounded upwards."""
    if value is None:
        return "-"
    digits = 4 if 0 < abs(value) < 0.0995 else 3
    text = f"{math.ceil(value * 10**digits - 1e-9) / 10**digits if bound else value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def cell(row: Row | None) -> str:
    """`.703 [.699, .707]`, with `<= .867` where a ceiling is proved; a refused number is a dash."""
    if row is None or row.estimate is None:
        return "-"
    ceiling = f" <= {number(row.ceiling, bound=True)}" if row.ceiling is not None else ""
    if row.high is None:  # a lower bound is rounded downwards
        return number(math.floor(row.estimate * 1000) / 1000) + ceiling
    return f"{number(row.estimate)} [{number(row.low)}, {number(row.high)}]{ceiling}"


def summary(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the summary table, a line a setting."""
    found = {(row.setting, row.attack, row.metric): row for row in rows if row.examples == "all"}
    settings = list(dict.fromkeys(row.setting for row in rows if row.metric == "test_accuracy"))
    columns = [column for column in COLUMNS if any(found.get((name, column[1], column[2])) for name in settings)]
    first, others = columns[:2], columns[2:SHOWN]
    broken = {row.setting for row in rows if row.contradicted}
    body = []
    for name in settings:
        cells = [cell(found.get((name, attack, metric))) for _, attack, metric in (*first, *others)]
        body.append([name + (REFUTED if name in broken else ""), *cells[:2], _strongest(rows, name), *cells[2:]])
    return ["setting", *(title for title, _, _ in first), "strongest AUC", *(title for title, _, _ in others)], body


def _strongest(rows: Sequence[Row], setting: str) -> str:
    """The attack with the largest AUC on a setting, whichever it is, of other packages too: `.703 [.699, .707] rmia`."""
    own = [row for row in rows if (row.setting, row.metric, row.examples) == (setting, "auc", "all") and row.estimate is not None]
    best = max(own, key=lambda row: row.estimate or 0.0, default=None)
    return "-" if best is None else f"{cell(dataclasses.replace(best, ceiling=None))} {best.attack}"


def attacks(rows: Sequence[Row], setting: str, examples: str = "all") -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of attacks on one setting, a line an attack that ran."""
    found = {(row.attack, row.metric): row for row in rows if row.setting == setting and row.examples == examples}
    names = dict.fromkeys(attack for (attack, metric), row in found.items() if attack and metric == "auc" and row.estimate is not None)
    measures = [measure for measure in MEASURES if any(found.get((name, measure[1])) for name in names)]
    body = [[name, *(cell(found.get((name, metric))) for _, metric in measures)] for name in names]
    return ["attack", *(title for title, _ in measures)], body


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned so that it reads as plain text too."""
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in [head, *body]]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def legend(rows: Sequence[Row]) -> list[str]:
    """How to read the table, and what was refused."""
    targets = max(row.targets for row in rows)
    over = f"Mean over {targets} attacked models [95 % interval]" if targets > 1 else "One attacked model [95 % interval over examples]"
    lines = [f"{over} <= proved ceiling."]
    lines += [f"LiRA: {row.note}." for row in rows if row.attack == "lira" and row.metric == "auc" and row.estimate is not None][:1]
    lines += [f"Blind baseline AUC {cell(row)} ({row.note})." for row in rows if row.attack == "blind"]
    refused: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.estimate is None and row.examples == "all":
            refused.setdefault(row.note, {}).setdefault(row.attack or "", []).append(row.metric)
    for reason, by_attack in refused.items():
        metrics = list(dict.fromkeys(metric for names in by_attack.values() for metric in names))
        whole = "auc" in metrics  # of an attack that could not run at all
        lines.append(f"{', '.join(by_attack)}{'' if whole else ', ' + ', '.join(metrics)}: {reason}.")
    return lines


def warnings(rows: Sequence[Row]) -> list[str]:
    """What must not be overlooked."""
    found = []
    for row in rows:
        if row.contradicted and row.attack == "blind":
            found.append(
                f"INVALID: a blind classifier tells members from non-members (AUC {cell(row)}); the split leaks, attack numbers say nothing."
            )
        elif row.contradicted:
            found.append(
                f"CONTRADICTION: {row.setting}, {row.attack} {row.metric} {cell(row)} is measured above what was proved; the privacy claim is wrong."
            )
    return found


def image(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem}
.scroll{overflow-x:auto} table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap} th{background:#f5f5f5}
td.note{white-space:normal;color:#666} .warning{background:#fde8e8;border-left:4px solid #c00;padding:.6rem 1rem}
img{max-width:100%;height:auto} dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:13px;margin:.3rem 0}
dt{color:#666} dd{margin:0} details{margin:.5rem 0} summary{cursor:pointer;font-weight:600} .muted{color:#666;font-size:13px}
"""


def page(
    name: str,
    rows: Sequence[Row],
    statements: Mapping[str, Mapping[str, str]],
    figures: Mapping[str, bytes],
    exposed: Mapping[str, Any],
    config: str,
    versions: Mapping[str, str],
) -> str:
    """The report as one HTML file without scripts or outside links; figures are PNG, name to bytes."""
    escape = html.escape
    head, body = summary(rows)
    parts = [f"<h1>{escape(name)}</h1>", *(f'<p class="muted">{escape(line)}</p>' for line in legend(rows)[:1])]
    parts += [f'<p class="warning">{escape(line)}</p>' for line in warnings(rows)]
    if body:
        parts += ["<h2>Summary</h2>", _html_table(head, body)]
    parts += [f'<p class="muted">{escape(line)}</p>' for line in legend(rows)[1:]]
    for title, data in figures.items():
        parts.append(f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">')
    parts.append("<h2>Attacks</h2>")
    for setting in dict.fromkeys(row.setting for row in rows if row.attack and row.attack != "blind"):
        parts.append(f"<h3>{escape(setting)}</h3>" + _html_table(*attacks(rows, setting)))
        if any(row.examples == "canaries" for row in rows):
            parts.append("<p>on the canaries only, the worst case</p>" + _html_table(*attacks(rows, setting, "canaries")))
        parts.append(_exposed(exposed.get(setting, {}), rows, setting))
    if statements:
        parts.append("<h2>Privacy statements</h2>")
    for setting, statement in statements.items():
        entries = "".join(f"<dt>{escape(heading)}</dt><dd>{escape(text)}</dd>" for heading, text in statement.items())
        parts.append(f"<details open><summary>{escape(setting)}</summary><dl>{entries}</dl></details>")
    every = [
        [row.setting, row.attack or "", row.metric, cell(row), str(row.targets), f"{row.n_in:,}", f"{row.n_out:,}", row.note]
        for row in rows
    ]
    parts.append(f"<h2>Every number</h2><details><summary>{len(every)} rows</summary>")
    parts.append(
        _html_table(
            ["setting", "attack", "metric", "estimate [95 % interval] <= ceiling", "targets", "members", "non-members", "note"], every
        )
        + "</details>"
    )
    parts.append(f"<h2>Run</h2><details><summary>configuration and versions</summary><pre>{escape(config)}</pre>")
    parts.append(f"<p class='muted'>{escape(', '.join(f'{key} {value}' for key, value in versions.items()))}</p></details>")
    return f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: privacy and utility</title><style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'


def _exposed(record: Mapping[str, Any], rows: Sequence[Row], setting: str) -> str:
    """The most exposed examples under the attack that finds most, and what each attack finds alone."""
    alone = record.get("agreement", {}).get("alone", {})
    if not alone:
        return ""
    fpr = record["agreement"]["fpr"]
    steady = record["stability"]
    lines = [
        [name, f"{own['found']:,}", f"{own['only']:,}", number(steady.get(name)), ", ".join(str(each) for each in own["ids"])]
        for name, own in alone.items()
    ]
    title = f"which members each attack finds at {fpr:.0%} FPR"
    head = ["attack", "members found", "by no other attack", "stability", "ids it alone finds most"]
    parts = [f"<details><summary>{title}</summary>{_html_table(head, lines)}"]
    parts.append(
        "<p class='muted'>stability: rank correlation of the examples' exposure between two halves of the models, each attacked without the other</p></details>"
    )
    best = max(alone, key=lambda name: alone[name]["found"])
    if record["vulnerable"][best]:
        head = ["id", "label", "found / held by", "95 % interval, all at once", "false alarms", "AUC over targets", "stands out"]
        lines = [
            [
                str(one["id"]),
                str(one["label"]),
                f"{one['found']} / {one['of']}",
                f"[{number(one['low'])}, {number(one['high'])}]",
                str(one["false_alarms"]),
                number(one["auc"]),
                f"yes, p {one['p']:.2g}" if one["stands_out"] else "no",
            ]
            for one in record["vulnerable"][best]
        ]
        count = sum(one["stands_out"] for one in record["vulnerable"][best])
        said = (
            f"{count} of these {len(lines)} stand out from chance" if count else "none stands out from what chance would show among so many"
        )
        parts.append(f"<details><summary>most exposed examples ({html.escape(best)}): {said}</summary>{_html_table(head, lines)}</details>")
    return "".join(parts)


def _html_table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    lines = "".join(
        "<tr>" + "".join(f"<td{' class=note' if len(str(text)) > 60 else ''}>{html.escape(str(text))}</td>" for text in line) + "</tr>"
        for line in body
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
