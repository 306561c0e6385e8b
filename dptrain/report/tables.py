"""Rows to tables of text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dptrain.evaluation.rows import AUC, BLIND, IMPUTATION, TEST_ACCURACY, Kind, Row
from dptrain.evaluation.subgroups import GroupRow
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of

Table = tuple[list[str], list[list[str]]]
"""Head and body."""
Differences = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""By utility, setting and other setting: [estimate, low, high] of the first less the second."""

COLUMNS: tuple[tuple[str, str, str], ...] = (
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
SHOWN = 4
"""Columns of the summary beside utility and the strongest attack: the first of COLUMNS that the run
has. Everything is in the report and in metrics.json.
"""


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


OF_ATTRIBUTES = (
    (Kind.ATTRIBUTE_ACCURACY, "right of members"),
    (Kind.ATTRIBUTE_BALANCED_ACCURACY, "mean over values"),
    (Kind.ATTRIBUTE_GAIN, "more than without the model"),
    (Kind.ATTRIBUTE_ADVANTAGE, "members less non-members"),
)
"""Columns of the tables of attribute inference."""


def number(value: float | None, bound: bool = False) -> str:
    """Three decimals, four below .1, no leading zero. An upper bound is rounded upwards."""
    if value is None:
        return "-"
    digits = 4 if 0 < abs(value) < 0.0995 else 3
    text = f"{math.ceil(value * 10**digits - 1e-9) / 10**digits if bound else value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def rounded_down(value: float) -> str:
    """A lower bound: rounded to the nearest it would not be one."""
    return number(math.floor(value * 1000) / 1000)


def cell(row: Row | None) -> str:
    """`.703 [.699, .707]`, with `<= .867` where a ceiling is proved; a refused number is a dash."""
    if row is None or row.estimate is None:
        return "-"
    ceiling = f" <= {number(row.ceiling, bound=True)}" if row.ceiling is not None else ""
    if row.high is None:  # a lower bound is rounded downwards
        return rounded_down(row.estimate) + ceiling
    return f"{number(row.estimate)} [{number(row.low)}, {number(row.high)}]{ceiling}"


def refuted(rows: Sequence[Row]) -> set[str]:
    """The settings of which more was measured than was proved."""
    return {row.setting for row in rows if row.contradicted}


def summary(rows: Sequence[Row], utility: str = "accuracy") -> Table:
    """Head and body of the summary table, a line a setting; utility: what stands first."""
    by_metric = {
        (row.setting, row.attack, row.metric.name): row for row in rows if row.examples == "all"
    }
    shown = metric_of(utility)
    settings = list(dict.fromkeys(row.setting for row in rows if row.metric == shown))
    others = [
        column
        for column in COLUMNS
        if any(by_metric.get((name, column[1], column[2])) for name in settings)
    ][:SHOWN]
    titles = {metric_of(name).name: f"test {UTILITIES[name].title}" for name in UTILITIES}
    # Of what is no accuracy, the accuracy too: readers know it best.
    too = [] if UTILITIES[utility].regression else ["test_accuracy", "train_accuracy"]
    first = dict.fromkeys([shown.name, *too])
    titles["train_accuracy"] = "train accuracy"
    broken = refuted(rows)
    body = []
    for name in settings:
        body.append(
            [
                name + (REFUTED if name in broken else ""),
                *(cell(by_metric.get((name, None, metric))) for metric in first),
                _strongest(rows, name),
                *(cell(by_metric.get((name, attack, metric))) for _, attack, metric in others),
            ]
        )
    return [
        "setting",
        *(titles[metric] for metric in first),
        "strongest AUC",
        *(title for title, _, _ in others),
    ], body


def utilities(rows: Sequence[Row]) -> Table:
    """Head and body of the table of every utility on the test set, a line a setting."""
    names = {metric_of(name): name for name in UTILITIES}
    values = {(row.setting, names[row.metric]): row for row in rows if row.metric in names}
    settings = dict.fromkeys(setting for setting, _ in values)
    there = {name: UTILITIES[name] for name in UTILITIES if any(key[1] == name for key in values)}
    head = [
        "setting",
        *(each.title + ("" if each.higher else " (less is better)") for each in there.values()),
    ]
    body = [[each, *(cell(values.get((each, name))) for name in there)] for each in settings]
    return head, body


def measures(rows: Sequence[Row]) -> Table:
    """Head and body of the utilities of one setting, a line each."""
    of_metric = {row.metric: row for row in rows}
    there = [name for name in UTILITIES if metric_of(name) in of_metric]
    body = [[UTILITIES[name].title, cell(of_metric[metric_of(name)])] for name in there]
    return ["utility on the test set", "value [95 % interval]"], body


def groups(rows: Sequence[GroupRow], setting: str) -> Table:
    """Head and body of the numbers of one setting by subgroup, the smallest group first."""
    of_setting = [row for row in rows if row.setting == setting]
    compared = any(row.change for row in of_setting)
    body = []
    for row in sorted(of_setting, key=lambda row: (row.rows, row.group)):
        shown = [_difference(limits) for limits in (row.gap, row.change, row.excess)]
        value = row.note if row.value is None else between(row.value)
        parts = [row.group, row.measure, f"{row.rows:,}", value, shown[0]]
        body.append([*parts, *(shown[1:] if compared else [])])
    head = ["group", "measure", "rows", "value", "less all others"]
    return [*head, *(["less none", "more than others"] if compared else [])], body


def by_class(rows: Sequence[GroupRow]) -> Table:
    """Head and body of the accuracy of each setting by class, a line a class, with ` *` where the
    change against the setting none is not told apart from 0.
    """
    settings = list(dict.fromkeys(row.setting for row in rows))
    cells = {(row.group, row.setting): row for row in rows}
    body = []
    for name in dict.fromkeys(row.group for row in rows):
        of_class = [cells.get((name, setting)) for setting in settings]
        count = next((row.rows for row in of_class if row is not None), 0)
        body.append([name, f"{count:,}", *map(_of_class, of_class)])
    return ["class", "test rows", *settings], body


def _of_class(row: GroupRow | None) -> str:
    if row is None or row.value is None:
        return "-" if row is None else row.note
    changed = f", less none {_difference(row.change)}" if row.change is not None else ""
    return f"{between(row.value)}{changed}"


def said_of_smallest(rows: Sequence[GroupRow]) -> list[str]:
    """What each setting costs the smallest group, a sentence each."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        compared = [row for row in rows if row.setting == setting and row.change]
        row = min(compared, key=lambda row: (row.rows, row.measure), default=None)
        if row is None or row.value is None or row.change is None or row.excess is None:
            continue
        _, low, high = row.excess
        apart = ", which is not told apart from no difference" if low <= 0 <= high else ""
        lines.append(
            f"{setting}, smallest group {row.group} ({row.rows:,} rows): {row.measure} "
            f"{between(row.value)}, a change of {between(row.change)} from none; less the change "
            f"of all others {between(row.excess)}{apart}."
        )
    return lines


def attributes(rows: Sequence[Row]) -> dict[str, Table]:
    """By column that was attacked: head and body, a line a setting and attack."""
    inferred = _by_attribute(rows)
    tables: dict[str, Table] = {}
    for (column, setting, attack), of in inferred.items():
        head = ["setting", "attack", *(title for _, title in OF_ATTRIBUTES)]
        _, body = tables.setdefault(column, (head, []))
        cells = [_against_ceiling(of.get(kind)) for kind, _ in OF_ATTRIBUTES]
        body.append([setting, attack, *cells])
    return tables


def said_of_attributes(rows: Sequence[Row]) -> list[str]:
    """What each setting tells of each column that was attacked: the share of members of which the
    best attack is right beside that of imputation, and what training on a row gives away. A
    difference is named where that of any attack is above 0; all of a setting hold at once.
    """
    by_place: dict[tuple[str, str], dict[str, dict[Kind, Row]]] = {}
    for (column, setting, attack), of in _by_attribute(rows).items():
        by_place.setdefault((setting, column), {})[attack] = of
    lines = []
    for (setting, column), of_attacks in by_place.items():
        alone = of_attacks.pop(IMPUTATION, {}).get(Kind.ATTRIBUTE_ACCURACY)
        gain = _surest(of_attacks, Kind.ATTRIBUTE_GAIN)
        added = _surest(of_attacks, Kind.ATTRIBUTE_ADVANTAGE)
        if alone is None or gain is None or added is None:
            continue
        right = of_attacks[gain.attack or ""][Kind.ATTRIBUTE_ACCURACY]
        more = "the model knows more" if (gain.low or 0.0) > 0 else "not told apart from 0"
        away = "it gives the value away" if (added.low or 0.0) > 0 else "not told apart from 0"
        lines.append(
            f"Setting {setting}, column {column!r}: {gain.attack} is right of {cell(right)} of the "
            f"members, a guess without the model of {cell(alone)}: a difference of {cell(gain)} "
            f"({more}). That a row was trained on makes {added.attack} right more often by "
            f"{cell(added)} ({away})."
        )
    return lines


def _surest(of_attacks: Mapping[str, Mapping[Kind, Row]], kind: Kind) -> Row | None:
    """The row of the attack whose interval begins highest."""
    measured = [of[kind] for of in of_attacks.values() if kind in of and of[kind].low is not None]
    return max(measured, key=lambda row: row.low or 0.0, default=None)


def _by_attribute(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[Kind, Row]]:
    """(column, setting, attack) -> kind of number -> row."""
    inferred: dict[tuple[str, str, str], dict[Kind, Row]] = {}
    for row in rows:
        if row.metric.column is not None:
            place = row.metric.column, row.setting, row.attack or ""
            inferred.setdefault(place, {})[row.metric.kind] = row
    return inferred


def between(limits: Sequence[float]) -> str:
    """An estimate and its interval."""
    estimate, low, high = limits
    return f"{number(estimate)} [{number(low)}, {number(high)}]"


def trials(
    candidates: Sequence[str], drawn: Sequence[tuple[str, float | None]], chosen: int, utility: str
) -> Table:
    """Head and body of the trials of a choice, a line a candidate. drawn: the candidate of each
    trial and its score, None where it failed; chosen: the place of the best among them.
    """
    of_best, measure = drawn[chosen][0], UTILITIES[utility]
    best = max if measure.higher else min
    body = []
    for name in candidates:
        scores = [score for candidate, score in drawn if candidate == name]
        known = [score for score in scores if score is not None]
        mark = " (chosen)" if name == of_best else ""
        shown = number(best(known)) if known else "-"
        body.append([name + mark, str(len(scores)), shown])
    return ["candidate", "trials", f"best {measure.title} on the population"], body


def differences(paired: Differences, utility: str) -> Table:
    """Head and body of the paired differences of a utility: each setting less each of the others,
    with ` *` where the interval holds 0, so that the two cannot be told apart.
    """
    of_utility = paired.get(utility, {})
    others = list(dict.fromkeys(other for values in of_utility.values() for other in values))
    body = [
        [setting, *(_difference(values.get(other)) for other in others)]
        for setting, values in of_utility.items()
    ]
    return ["setting, less", *others], body


def _difference(limits: Sequence[float] | None) -> str:
    if limits is None:
        return "-"
    _, low, high = limits
    mark = " *" if low <= 0 <= high else ""
    return f"{between(limits)}{mark}"


def said_of_constant(paired: Differences, utility: str) -> list[str]:
    """Which settings are not shown to be better than the constant prediction, as a line; and where
    that was not compared.
    """
    if not paired:
        return []
    sign = 1 if UTILITIES[utility].higher else -1
    worse = []
    for setting, values in paired.get(utility, {}).items():
        _, low, high = values.get(CONSTANT, (0.0, 0.0, 0.0))
        if min(sign * low, sign * high) <= 0:
            worse.append(setting)
    if utility not in paired:
        return [
            f"No setting is compared with the {CONSTANT}: it has no {UTILITIES[utility].title}."
        ]
    return [f"Not shown to be better than the {CONSTANT}: {', '.join(worse)}."] if worse else []


def several(runs: Mapping[str, Sequence[Row]], utility: str = "accuracy") -> Table:
    """The summaries of several runs in one table, a line a run and setting, without the constant
    predictions; of the columns those that every run has.
    """
    summaries = {run: summary(rows, utility) for run, rows in runs.items()}
    heads = [head for head, _ in summaries.values()]
    columns = [title for title in heads[0] if all(title in head for head in heads)]
    body = [
        [run, *(line[head.index(title)] for title in columns)]
        for run, (head, lines) in summaries.items()
        for line in lines
        if line[0] != CONSTANT
    ]
    return ["run", *columns], body


def _strongest(rows: Sequence[Row], setting: str) -> str:
    """The attack with the largest AUC on a setting, whichever it is, of other packages too: `.703
    [.699, .707] rmia`.
    """
    of_setting = [
        row
        for row in rows
        if (row.setting, row.metric, row.examples) == (setting, AUC, "all")
        and row.estimate is not None
    ]
    best = max(of_setting, key=lambda row: row.estimate or 0.0, default=None)
    return "-" if best is None else f"{cell(dataclasses.replace(best, ceiling=None))} {best.attack}"


def attacks(rows: Sequence[Row], setting: str, examples: str = "all") -> Table:
    """Head and body of the table of attacks on one setting, a line an attack that ran."""
    by_metric = {
        (row.attack, row.metric.name): row
        for row in rows
        if row.setting == setting and row.examples == examples
    }
    names = dict.fromkeys(
        attack
        for (attack, metric), row in by_metric.items()
        if attack and metric == "auc" and row.estimate is not None
    )
    measures = [
        measure for measure in MEASURES if any(by_metric.get((name, measure[1])) for name in names)
    ]
    body = [
        [name, *(_against_ceiling(by_metric.get((name, metric))) for _, metric in measures)]
        for name in names
    ]
    return ["attack", *(title for title, _ in measures)], body


def _against_ceiling(row: Row | None) -> str:
    return cell(row) + (REFUTED if row is not None and row.contradicted else "")


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned so that it reads as plain text too."""
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in [head, *body]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def legend(rows: Sequence[Row], claimed: bool = False) -> list[str]:
    """How to read the table, and what was refused. claimed: whether ceilings follow from what
    somebody claims, and not from what was run here.
    """
    targets = max(row.targets for row in rows)
    over = (
        f"Mean over {targets} attacked models [95 % interval]"
        if targets > 1
        else "One attacked model [95 % interval over examples]"
    )
    said = (
        " <= ceiling of the claim, which nothing here proves" if claimed else " <= proved ceiling"
    )
    bounded = any(row.ceiling is not None for row in rows)
    lines = [f"{over}{said if bounded else ''}."]
    lines += [
        f"LiRA: {row.note}."
        for row in rows
        if row.attack == "lira" and row.metric == AUC and row.estimate is not None
    ][:1]
    lines += [
        f"Blind baseline AUC {cell(row)} ({row.note})." for row in rows if row.attack == BLIND
    ]
    lines += _mirrored(rows)
    notes = [row.note for row in rows if row.metric == TEST_ACCURACY and row.note]
    lines += [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes)]
    refused: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.estimate is None and row.examples == "all":
            refused.setdefault(row.note, {}).setdefault(row.attack or "", []).append(
                row.metric.name
            )
    for reason, by_attack in refused.items():
        metrics = list(dict.fromkeys(metric for names in by_attack.values() for metric in names))
        whole = "auc" in metrics  # of an attack that could not run at all
        attacked = list(filter(None, by_attack))
        named = ", ".join(attacked)
        what = named if whole else f"{', '.join(metrics)}{f' of {named}' if named else ''}"
        lines.append(f"{what}: {reason}.")
    return lines


FAR_BELOW_CHANCE = 0.45
"""Where an AUC's upper end lies below it, members were probably taken for the others."""


def _mirrored(rows: Sequence[Row]) -> list[str]:
    """Attacks that are right about nearly everybody, the wrong way round."""
    names = {
        row.attack or ""
        for row in rows
        if row.metric == AUC
        and row.examples == "all"
        and row.attack != BLIND
        and row.high is not None
        and row.high < FAR_BELOW_CHANCE
    }
    if not names:
        return []
    listed = ", ".join(sorted(names))
    return [f"{listed}: AUC far below .5. Members and others may be exchanged in these scores."]


def warnings(rows: Sequence[Row]) -> list[str]:
    """What must not be overlooked."""
    lines = []
    for row in rows:
        if row.contradicted and row.attack == BLIND:
            lines.append(
                "INVALID: a blind classifier tells members from non-members (AUC "
                f"{cell(row)}); the split leaks, attack numbers say nothing."
            )
        elif row.contradicted:
            lines.append(
                f"CONTRADICTION: {row.setting}, {row.attack} {row.metric.name} {cell(row)} is "
                "measured above what was proved; the privacy claim is wrong."
            )
    return lines
