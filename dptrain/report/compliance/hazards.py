"""The hazards of NIST SP 800-226, each with its answer from the numbers of a run.

The wording is that of the initial public draft (December 2023), shortened where dots stand, with
words of ours in brackets; the final text (March 2025) may differ. Its hazards of histograms, of
interactive queries and of synthetic data do not apply to models and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dptrain.core.types import Unit
from dptrain.evaluation.utility import UTILITIES
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.reading import strongest
from dptrain.report.record import Record
from dptrain.report.statement import claim, rounded_up, sentences
from dptrain.report.tables import (
    between,
    cell,
    number,
    refuted,
    rounded_down,
    said_of_smallest,
)

EDITION = "NIST SP 800-226, initial public draft of December 2023"
LARGE = 10.0
"""Epsilon from which the claim is called weak; every attack may then succeed almost always."""


class Status(StrEnum):
    """Who answers a hazard."""

    ANSWERED = "answered from the numbers of this run"
    PARTLY = "answered in part; the organisation must add the rest"
    ORGANISATION = "for the organisation to answer"


@dataclass(frozen=True)
class Answer:
    """status: who answers it; text: sentences, a paragraph each."""

    status: Status
    text: tuple[str, ...]


def answers(record: Record) -> list[tuple[str, Answer]]:
    """Each hazard in its own words, and its answer."""
    return [(hazard, answer(record)) for hazard, answer in HAZARDS]


def _private(record: Record) -> dict[str, PrivacyStatement]:
    """The settings of which something is claimed."""
    broken = refuted(record.rows)
    return {
        name: statement
        for name, statement in record.statements.items()
        if statement.private and name not in broken
    }


def _of_each(
    record: Record, say: Callable[[PrivacyStatement], str], status: Status = Status.ANSWERED
) -> Answer:
    """A sentence for each setting of which something is claimed; settings of one sentence share
    it.
    """
    names: dict[str, list[str]] = {}
    for name, statement in _private(record).items():
        names.setdefault(say(statement), []).append(name)
    lines = [f"{', '.join(settings)}: {text}." for text, settings in names.items()]
    return Answer(status, (*lines, *_unprotected(record)))


def _unprotected(record: Record) -> tuple[str, ...]:
    """Of which settings nothing is claimed."""
    broken = refuted(record.rows)
    plain = [
        name
        for name, statement in record.statements.items()
        if not statement.private and name not in broken
    ]
    lines = [f"{', '.join(plain)}: trained without differential privacy, no guarantee."] * bool(
        plain
    )
    if broken:
        lines.append(f"{', '.join(sorted(broken))}: REFUTED by a measurement, so no guarantee.")
    return tuple(lines)


def _large_epsilon(record: Record) -> Answer:
    def say(statement: PrivacyStatement) -> str:
        ceilings, epsilon = statement.ceilings, statement.epsilon
        assert ceilings is not None
        weak = epsilon is None or epsilon > LARGE
        rate = ceilings.tpr_at_fpr["0.01"]
        return (
            f"{claim(statement)}; where it holds, an attack on one {_what(statement)} finds at "
            f"most {number(rate, bound=True)} of the members at 1 % false alarms, with an AUC of "
            f"at most {number(ceilings.auc, bound=True)}"
            + f"; above {LARGE:g}, so this says little"
            * weak
        )

    return _of_each(record, say)


def _what(statement: PrivacyStatement) -> str:
    return "user" if statement.drawn == Unit.USER or statement.group_size > 1 else "example"


def _catastrophic(record: Record) -> Answer:
    def say(statement: PrivacyStatement) -> str:
        mu = f"; {rounded_up(statement.mu, 3)}-GDP at every delta from {statement.delta:g} up"
        return (
            "(epsilon, delta) is claimed, since DP-SGD satisfies no pure differential privacy; at "
            "each smaller delta it has a larger, finite epsilon, so nothing fails outright with "
            "probability delta" + mu * (statement.mu is not None)
        )

    return _of_each(record, say)


def _unit(record: Record) -> Answer:
    def say(statement: PrivacyStatement) -> str:
        said = sentences(statement)
        return f"the unit is {said['unit']}; neighbours: {said['neighbours']}"

    return _of_each(record, say)


def _events(record: Record) -> Answer:
    def say(statement: PrivacyStatement) -> str:
        if statement.grouped:
            return f"the unit is {statement.unit}, so people are protected and not only rows"
        groups = ", ".join(
            f"{size} rows {rounded_up(epsilon, 2)}" for size, epsilon in statement.group.items()
        )
        return (
            "one row is protected, and a person with several is not at this epsilon"
            + f"; theirs is, with {groups}" * bool(groups)
        )

    answer = _of_each(record, say, Status.PARTLY)
    rest = "Whether a person has several rows here, the organisation must say (dataset.unit)."
    return Answer(answer.status, (*answer.text, rest))


def _deltas(record: Record) -> Answer:
    return _compared("delta", {f"{each.delta:g}" for each in _private(record).values()})


def _units(record: Record) -> Answer:
    return _compared("unit", {each.unit for each in _private(record).values()})


def _compared(what: str, values: set[str]) -> Answer:
    """Whether settings that claim something may be held against each other."""
    shown = "; ".join(sorted(values))
    said = f"No {what} is claimed."
    if len(values) == 1:
        said = f"Every private setting of this run has the {what} {shown}: these may be compared."
    elif values:
        said = f"The {what} differs ({shown}): those settings are not to be compared."
    return Answer(Status.ANSWERED, (said,))


def _large_delta(record: Record) -> Answer:
    return _of_each(
        record,
        lambda statement: (
            f"delta {statement.delta:g} for n = {statement.public_n:,}: delta x n = "
            f"{statement.delta * statement.public_n:.3g}"
            + ", not below 1, so epsilon misleads"
            * (statement.delta * statement.public_n >= 1)
        ),
    )


def _other_releases(record: Record) -> Answer:
    composed = {
        (after.composed.models, after.composed.epsilon)
        for statement in record.statements.values()
        if (after := statement.evaluated) is not None and after.composed is not None
    }
    lines = [
        f"All {models:,} private models in the ledger of this folder together: epsilon "
        f"{'unknown' if epsilon is None else rounded_up(epsilon, 2)}."
        for models, epsilon in sorted(composed, key=str)
    ]
    lines += [
        "Losses, curves, scores, this page, the report and TensorBoard come from the private data "
        "and are covered by no epsilon; they are for those who may see the data.",
        "What else was released of these data, the organisation must add.",
    ]
    return Answer(Status.PARTLY, tuple(lines))


def _custom(record: Record) -> Answer:
    checks = {sentences(statement)["checks"] for statement in _private(record).values()}
    lines = [
        "Epsilon is computed by Google's dp-accounting, with Opacus's accountant as a second "
        "opinion. Clipping, sampling and noise are dptrain's, tested against Opacus, against plain "
        "autograd and by planted bugs (docs/testing.md).",
        *(f"Of this run: {text}." for text in sorted(checks)),
        *_bounds(record),
    ]
    return Answer(Status.PARTLY, tuple(lines))


def _bounds(record: Record) -> list[str]:
    """Measured lower bounds of epsilon beside what is proved."""
    return [
        f"{name}: epsilon at least {rounded_down(after.measured.epsilon)} was measured, at most "
        f"{rounded_up(statement.epsilon, 3)} is proved."
        for name, statement in _private(record).items()
        if (after := statement.evaluated) is not None and after.measured is not None
    ]


def _not_automatic(record: Record) -> Answer:
    lines = []
    for name in record.settings:
        row = strongest(record.rows, name)
        if row is None or name in refuted(record.rows):
            continue
        lines.append(f"{name}: the strongest attack is {row.attack}, AUC {cell(row)}.")
    return Answer(Status.ANSWERED, tuple(lines) or ("This run has no attack.",))


def _contributions(record: Record) -> Answer:
    def say(statement: PrivacyStatement) -> str:
        if statement.drawn == Unit.USER:
            return (
                f"at most {statement.examples_per_user} examples of a user enter a step, and their "
                "mean is clipped and noised as one, so the guarantee is of users"
            )
        if statement.group_size > 1:
            return f"noise is for {statement.group_size} examples that come and go together"
        return "contributions are not bounded, and no user-level guarantee is claimed"

    return _of_each(record, say)


def _systemic_bias(record: Record) -> Answer:
    said = said_of_smallest(record.groups)
    if said:
        return Answer(Status.PARTLY, tuple(said))
    why = "No subgroup was measured in this run; groups=[COLUMN] of dptrain sweep measures them."
    return Answer(Status.ORGANISATION, (why,))


def _statistical_bias(record: Record) -> Answer:
    lines = []
    for name, statement in _private(record).items():
        shares = [
            point["clipped"]
            for point in record.training.get(name, [])
            if point.get("clipped") is not None
        ]
        if shares and statement.clip is not None:
            first, last = number(shares[0]), number(shares[-1])
            lines.append(
                f"{name}: gradients are clipped to {statement.clip:g}, a share of {first} of the "
                f"examples at the start of training and {last} at its end."
            )
        paired = record.differences.get(record.utility, {}).get(name, {}).get("none")
        if paired is not None:
            title = UTILITIES[record.utility].title
            lines.append(f"{name}: test {title} less that without privacy: {between(paired)}.")
    return Answer(Status.PARTLY if lines else Status.ORGANISATION, tuple(lines))


def _unstructured(record: Record) -> Answer:
    return _of_each(
        record,
        lambda statement: (
            f"the unit is {statement.unit}; whether images, texts or rows of several units show "
            "one and the same person is not known here"
        ),
        Status.PARTLY,
    )


def _side_channels(record: Record) -> Answer:
    return _of_each(record, lambda statement: sentences(statement)["randomness"], Status.PARTLY)


def _organisation(_record: Record) -> Answer:
    return Answer(Status.ORGANISATION, ())


HAZARDS: tuple[tuple[str, Callable[[Record], Answer]], ...] = (
    ("Large values of ε may not provide meaningful privacy.", _large_epsilon),
    (
        "Due to the possibility of catastrophic failure, avoid the use of (ε,δ)-differential "
        "privacy when possible",
        _catastrophic,
    ),
    (
        "If the difference between two hypothetical situations is not captured by the unit of "
        "privacy, then differential privacy does not prevent an adversary from distinguishing the "
        "two situations.",
        _unit,
    ),
    ("Event-level privacy protects events (or dataset rows), not individuals.", _events),
    ("Guarantees with different values of δ are not directly comparable.", _deltas),
    ("Guarantees with different units of privacy are not directly comparable.", _units),
    ("[C]hoosing a large value for δ results in a misleading value for ε", _large_delta),
    (
        "[Differential privacy] does not mitigate privacy risks associated with other "
        "(non-differentially private) releases based on the same underlying data",
        _other_releases,
    ),
    (
        "Avoid custom implementations ... and use well-tested libraries instead.",
        _custom,
    ),
    ("Machine learning techniques do not automatically protect privacy.", _not_automatic),
    (
        "When bounding user contributions, additional noise must be added to ensure user-level "
        "privacy.",
        _contributions,
    ),
    ("Differential privacy can magnify or create systemic bias.", _systemic_bias),
    ("[Differential privacy] can introduce statistical bias", _statistical_bias),
    ("Before deploying interventions to address sources of human bias ...", _organisation),
    (
        "For unstructured data, defining the unit of privacy can be difficult or impossible",
        _unstructured,
    ),
    ("The trust assumptions ... must hold in the real world.", _organisation),
    (
        "[Implementing it is] tricky and requires considering side-channel vulnerabilities",
        _side_channels,
    ),
    ("Failures in data security ...", _organisation),
    ("Failures in access control policy ...", _organisation),
    (
        "Organizations should minimize data collection, even when using differential privacy.",
        _organisation,
    ),
)
"""Hazard -> what answers it."""
