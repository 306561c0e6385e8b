"""What a choice among the settings of a sweep costs and can rest on: its price, what a larger
epsilon buys, which settings cannot be told apart, and how much more would tell them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from dptrain.core.types import Mechanism, Unit
from dptrain.evaluation.utility import CONSTANT, UTILITIES
from dptrain.privacy import selection
from dptrain.privacy.selection import Trials
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.tables import between

POWER = (1.96 + 0.84) / 1.96
"""Half-widths of a 95 % interval that a difference must be for it to be shown in four of five
repetitions.
"""
Paired = Mapping[str, Mapping[str, Sequence[float]]]
"""By setting and other setting: [estimate, low, high] of the first less the second."""


def mechanism_of(statement: PrivacyStatement) -> Mechanism:
    """The mechanism of a private statement, as far as its price depends on it."""
    rate = Fraction(statement.sample_rate)
    return Mechanism(
        statement.sampling,
        rate.numerator,
        rate.denominator,
        statement.steps,
        statement.noise_multiplier,
        statement.clip or 1.0,
        statement.divisor,
        statement.neighbouring,
        statement.drawn,
    )


def price(statements: Mapping[str, PrivacyStatement]) -> tuple[int, float] | None:
    """How many private settings there are, and epsilon of the best of a random number of trainings
    of them, as many in the mean (geometric law); None for fewer than two, and where they do not
    protect the same unit or have several deltas.
    """
    private = [each for each in statements.values() if each.private and each.selection is None]
    units = {(each.drawn, each.group_size, each.delta) for each in private}
    if len(private) < 2 or len(units) > 1 or private[0].group_size > 1:
        return None
    mechanisms = [mechanism_of(each) for each in private]
    spent = selection.epsilon(mechanisms, private[0].delta, Trials(float(len(private))))
    return len(private), spent


def alike(paired: Paired) -> list[tuple[str, str]]:
    """Pairs of settings whose difference has an interval that holds 0."""
    return [
        (setting, other)
        for setting, values in paired.items()
        for other, (_, low, high) in values.items()
        if other != CONSTANT and setting < other and low <= 0 <= high
    ]


def times_more(limits: Sequence[float]) -> float | None:
    """How many times as many models and test rows would show a difference of this size, in four of
    five repetitions: intervals shrink as one over their root. None for a difference of 0.
    """
    estimate, low, high = limits
    half = (high - low) / 2
    return (POWER * half / abs(estimate)) ** 2 if estimate else None


def said_alike(paired: Paired, utility: str) -> list[str]:
    """Which settings cannot be told apart, and how much more would tell them, a sentence."""
    parts = []
    for setting, other in alike(paired):
        more = times_more(paired[setting][other])
        if more is None or not math.isfinite(more):
            shown = ""
        else:
            shown = " (over 100)" if more > 100 else f" ({max(1.1, more):.2g})"
        parts.append(f"{setting} and {other}{shown}")
    if not parts:
        return []
    return [
        f"Cannot be told apart in {UTILITIES[utility].title}, in brackets about how many times as "
        f"many models and test rows would tell: {'; '.join(parts)}."
    ]


def said_of_epsilon(
    statements: Mapping[str, PrivacyStatement], paired: Paired, title: str
) -> list[str]:
    """What each step to the next larger epsilon of one unit buys, a sentence each. title: of the
    utility.
    """
    units: dict[tuple[Unit, int], list[tuple[str, PrivacyStatement]]] = {}
    for name, each in statements.items():
        if each.private:
            units.setdefault((each.drawn, each.group_size), []).append((name, each))
    steps = [
        step
        for of_unit in units.values()
        for step in itertools.pairwise(sorted(of_unit, key=lambda item: item[1].epsilon or 0.0))
    ]
    lines = []
    for (less, first), (more, second) in steps:
        limits = paired.get(more, {}).get(less)
        larger = (first.target_epsilon or 0.0) < (second.target_epsilon or 0.0)
        if limits is None or not larger or first.ceilings is None or second.ceilings is None:
            continue
        rise = second.ceilings.advantage - first.ceilings.advantage
        lines.append(
            f"From {less} to {more}: {title} changes by {between(limits)}, and the proved "
            f"advantage of an attack rises by {rise:.3f}."
        )
    return lines
