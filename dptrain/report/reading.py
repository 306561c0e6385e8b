"""What a result says, in three sentences (what leaks and to whom, what is proved, and what privacy
costs) and a table of what happens to 100 people. Every number of the sentences is one of the
summary, with its interval.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dptrain.attacks import ALONE
from dptrain.core.types import NoiseSource
from dptrain.evaluation.rows import AUC, BLIND, Row, tpr_at
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of
from dptrain.privacy.pld import claimed_trade_off
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.record import Record
from dptrain.report.statement import rounded_up
from dptrain.report.tables import Table, between, cell, number, refuted


def reading(record: Record) -> list[str]:
    """The sentences; a run without attacks or settings has fewer."""
    rows = record.rows
    if _leaks_before(rows):
        return ["No number of this run says anything: members differ before any training."]
    broken = refuted(rows)
    sentences = [f"Nothing of {', '.join(sorted(broken))} is to be trusted."] if broken else []
    settings = {row.setting: row for row in rows if row.attack and row.attack != BLIND}
    whole = [name for name in settings if name not in broken]
    leaks = {name: row for name in whole if (row := strongest(rows, name)) is not None}
    sentences += _leak(rows, leaks)
    sentences += _proof(record, leaks)
    sentences += _cost(record, leaks)
    return sentences


def _leaks_before(rows: Sequence[Row]) -> bool:
    """Whether members differ from others before anything is trained."""
    return any(row.attack == BLIND and row.contradicted for row in rows)


def strongest(rows: Sequence[Row], setting: str) -> Row | None:
    """The attack with the largest AUC on a setting."""
    return max(_aucs(rows, setting), key=lambda row: row.estimate or 0.0, default=None)


def _aucs(rows: Sequence[Row], setting: str) -> list[Row]:
    """The AUC of every attack on a setting."""
    return [
        row
        for row in rows
        if row.setting == setting
        and row.metric == AUC
        and row.examples == "all"
        and row.attack != BLIND
        and row.estimate is not None
    ]


WHITE_BOX = ("gradient_norm", "gradient_canary", "trajectory")
"""Attacks that need more than answers: parameters, or checkpoints of the training."""


def _leak(rows: Sequence[Row], leaks: dict[str, Row]) -> list[str]:
    """Of the strongest attack that is shown to tell members, on whichever setting: who can do it,
    and how often it is right. Where the AUC shows nothing, a rate at few false alarms may.
    """
    if not leaks:
        return []
    attacks = [row for name in leaks for row in _aucs(rows, name)]
    shown = [row for row in attacks if (row.low or 0.0) > 0.5]
    worst = max(shown or attacks, key=lambda row: row.estimate or 0.0)
    if not shown:
        return [_nothing_on_average(rows, leaks, worst)]
    place = (worst.setting, worst.attack, tpr_at(0.01), "all")
    rates = [
        f", and finds {cell(_bare(row))} of the members at 1 false alarm in 100"
        for row in rows
        if (row.setting, row.attack, row.metric, row.examples) == place and row.estimate is not None
    ]
    return [
        f"What leaks: whoever {_needed(worst)} tells a member from a non-member with AUC "
        f"{cell(_bare(worst))} by {worst.attack} (guessing has .5){''.join(rates[:1])}."
    ]


def _needed(row: Row) -> str:
    """What the attacker of a row can do."""
    setting = f"the setting {row.setting}"
    if row.attack in WHITE_BOX:
        more = "checkpoints of the training" if row.attack == "trajectory" else "the parameters"
        return f"has {more} of the models of {setting}"
    ask = f"can ask the models of {setting}"
    return ask if row.attack in (*ALONE, "quantile") else f"{ask}, and can train models like them,"


def _nothing_on_average(rows: Sequence[Row], leaks: Collection[str], worst: Row) -> str:
    """No AUC is shown to lie above .5; a few members, or canaries, may be found all the same."""
    best = (
        f"the strongest is {worst.attack} on {worst.setting}, AUC {cell(_bare(worst))}, where "
        "guessing has .5"
    )
    tails = [row for row in rows if row.setting in leaks and _above_chance(row)]
    if not tails:
        return (
            "What leaks: none of the attacks that ran is shown to tell members from others; "
            f"{best}. That is no evidence that nothing leaks."
        )
    tail = max(tails, key=lambda row: (row.low or 0.0) / _by_chance(row))
    where = " of the canaries" if tail.examples == "canaries" else ""
    what = "AUC" if tail.metric == AUC else f"{tail.metric.name}"
    return (
        "What leaks: on average no attack that ran is shown to tell members from others "
        f"({best}), and yet {tail.attack} on {tail.setting} has a {what} of {cell(_bare(tail))}"
        f"{where}, where guessing has {_by_chance(tail):g}."
    )


def _by_chance(row: Row) -> float:
    """What guessing gives: .5 of an AUC, the rate itself of a TPR."""
    return 0.5 if row.metric == AUC else row.metric.fpr or 1.0


def _above_chance(row: Row) -> bool:
    """Whether a rate at few false alarms, or the AUC of canaries, is shown to beat guessing."""
    looked_at = row.metric in (tpr_at(0.01), tpr_at(0.001), AUC)
    alone = row.attack is not None and row.attack != BLIND
    return looked_at and alone and row.low is not None and row.low > _by_chance(row)


def _bare(row: Row) -> Row:
    """Without its ceiling, which another sentence has."""
    return replace(row, ceiling=None)


def _proof(record: Record, leaks: dict[str, Row]) -> list[str]:
    """What no attack can exceed, and of whom nothing is proved."""
    proved = {name: row for name, row in leaks.items() if row.ceiling is not None}
    without = [name for name in leaks if name not in proved]
    kind = "setting" if len(without) == 1 else "settings"
    unproved = f"of the {kind} {', '.join(without)} nothing is proved, and a stronger attack may"
    unproved += " succeed"
    if not proved:
        return [f"What is proved: {unproved}."] if without else []
    bounds = ", ".join(
        f"{number(row.ceiling, bound=True)} for {name}" for name, row in proved.items()
    )
    rest = f"; {unproved}" if without else ""
    statements = [record.statements[name] for name in proved if name in record.statements]
    if not statements:
        return [
            f"What is claimed: if the claim holds, no attack exceeds an AUC of {bounds}; nothing "
            f"here proves that it does{rest}."
        ]
    unit = "person" if all(each.grouped for each in statements) else "example"
    seeded = any(each.noise == NoiseSource.SEEDED for each in statements)
    who = " that does not know the seed of the noise" if seeded else " of any kind"
    return [
        f"What is proved: no attack{who} on one model and one {unit} exceeds an AUC of "
        f"{bounds}{rest}."
    ]


def _cost(record: Record, leaks: dict[str, Row]) -> list[str]:
    """What each private setting costs against plain training, paired where it can be."""
    utility = record.utility
    measure = UTILITIES[utility]
    title = measure.title if measure.higher else f"{measure.title} (less is better)"
    values = {}
    for row in record.rows:
        if row.metric == metric_of(utility) and row.setting != CONSTANT and row.setting in leaks:
            values[row.setting] = row
    baseline = values.get("none")
    private = [row for row in values.values() if row.epsilon is not None]
    if baseline is None or not private:
        shown = ", ".join(f"{cell(row)} for {name}" for name, row in values.items())
        return [f"What it is good for: test {title} {shown}."] if values else []
    paired = record.differences.get(utility, {})
    costs = []
    for row in private:
        change = paired.get(row.setting, {}).get("none")
        if change is None:
            costs.append(f"{cell(row)} for {row.setting}")
            continue
        _, low, high = change
        apart = " (not told apart from none)" if low <= 0 <= high else ""
        costs.append(f"by {between(change)} for {row.setting}{apart}")
    return [
        f"What privacy costs: test {title} is {cell(baseline)} without it, and changes "
        f"{', '.join(costs)}."
    ]


FALSE_ALARMS = 0.01
"""The rate at which the table in words counts."""


def in_words(record: Record) -> Table:
    """A line for each setting in the terms of a reader who knows no measure of attacks: of 100
    answers or members, how many. A bound is rounded upwards.
    """
    title = UTILITIES[record.utility].title
    share = record.utility == "accuracy"
    head = [
        "setting",
        "trained",
        "right answers of 100" if share else f"test {title}",
        "members that the attacks find, of 100",
        "at most, by proof",
        "at most, where a person has 2 rows",
    ]
    broken = refuted(record.rows)
    body: list[list[str]] = []
    if _leaks_before(record.rows):
        return head, body
    for setting in dict.fromkeys(row.setting for row in record.rows if row.attack != BLIND):
        of = [row for row in record.rows if row.setting == setting and row.examples == "all"]
        measured = [row for row in of if row.metric == metric_of(record.utility)]
        if setting == CONSTANT or not measured:
            continue
        statement = record.statements.get(setting)
        useful = _of_100(measured[0]) if share else cell(measured[0])
        attacked = [row for row in of if row.attack and row.metric == AUC]
        of_rows_only = bool(attacked) and all(row.ceiling is None for row in attacked)
        trained, *bounds = _promised(statement if setting not in broken else None, of_rows_only)
        body.append([setting, trained, useful, _of_100(_strongest_rate(of)), *bounds])
    return head, body


def _strongest_rate(rows: Sequence[Row]) -> Row | None:
    rates = [
        row
        for row in rows
        if row.metric == tpr_at(FALSE_ALARMS) and row.attack and row.estimate is not None
    ]
    return max(rates, key=lambda row: row.estimate or 0.0, default=None)


def _promised(statement: PrivacyStatement | None, of_rows_only: bool) -> tuple[str, str, str]:
    """How a setting was trained, and how many members of 100 any attack finds at most.
    of_rows_only: whether members are persons here, and the statement is of single rows, so that
    nothing is proved of what was measured.
    """
    if statement is None or not statement.private or statement.epsilon is None:
        return "without a guarantee", "all: nothing is proved", "all: nothing is proved"
    seed = ", noise from a seed" if statement.noise == NoiseSource.SEEDED else ""
    trained = f"with DP, epsilon {rounded_up(statement.epsilon, 2)}{seed}"
    if of_rows_only:
        nothing = "all: nothing is proved of a person"
        return f"{trained}, of single rows", nothing, nothing
    if statement.ceilings is None:
        return trained, "-", "-"
    single = _at_most(statement.ceilings.tpr_at_fpr[f"{FALSE_ALARMS:g}"])
    if statement.grouped:
        return trained, single, "the same: persons are protected"
    pair = statement.group.get("2")
    if pair is None:
        return trained, single, "-"
    return trained, single, _at_most(claimed_trade_off(pair, statement.delta).max_tpr(FALSE_ALARMS))


def _of_100(row: Row | None) -> str:
    if row is None or row.estimate is None or row.low is None or row.high is None:
        return "not measured"
    return f"{100 * row.estimate:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"


def _at_most(rate: float) -> str:
    return rounded_up(100 * rate, 1)
