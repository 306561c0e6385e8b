"""`dptrain advise`: which setting of a finished sweep meets a demand, how sure that is, and what
cannot be concluded. Loads no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dptrain.config.commands import AdviseConfig
from dptrain.core.errors import TargetError
from dptrain.evaluation.metrics import undominated
from dptrain.evaluation.rows import BLIND, TEST_ACCURACY, Row
from dptrain.evaluation.utility import CONSTANT, UTILITIES, Utility, metric_of
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.choices import price, said_of_epsilon
from dptrain.report.demands import Demand, meets, numbers, parse, require_measured, shown
from dptrain.report.record import read
from dptrain.report.statement import rounded_up, sentences

DEMANDS = {
    "max_tpr_at_1pct_fpr": ("tpr_at_fpr_0.01", "TPR at 1 % FPR"),
    "max_auc": ("auc", "AUC"),
    "max_advantage": ("advantage", "advantage"),
}
"""Of the strongest attack: key -> metric, and what it is called."""
UTILITY_DEMANDS = ("min_accuracy", "min_utility", "max_loss")


@dataclass(frozen=True)
class Candidate:
    """A setting: its accuracy, and the utility by which settings are compared; of each risk the
    strongest attack's row, the highest upper end of any attack's interval (1 where one has none),
    and the least proved ceiling (None without DP); refuted: whether something was measured above
    what was proved of it; asked: what the demands in words are judged by.
    """

    name: str
    epsilon: float | None
    accuracy: Row
    utility: Row
    risks: dict[str, Row]
    highest: dict[str, float]
    ceilings: dict[str, float | None]
    refuted: bool = False
    asked: tuple[str, ...] = ()

    @property
    def measure(self) -> Utility:
        return UTILITIES[str(self.utility.metric.kind).removeprefix("test_")]

    @property
    def merit(self) -> float:
        """The utility, or of one of which less is better its opposite."""
        value = self.utility.estimate
        return -math.inf if value is None else value if self.measure.higher else -value


@dataclass(frozen=True)
class Advice:
    """meeting: settings that meet the demands, the best first; undecided: whose estimates meet them
    and whose intervals do not; refuted: whose claim a measurement contradicts, so that no number of
    theirs is to be trusted.
    """

    demands: dict[str, float]
    where: list[Demand]
    meeting: list[Candidate]
    undecided: list[Candidate]
    failing: list[Candidate]
    refuted: list[Candidate]
    measured: list[str]
    proven: list[str]
    notes: list[str]

    def record(self) -> dict[str, Any]:
        def plain(candidate: Candidate) -> dict[str, Any]:
            return {
                "setting": candidate.name,
                "epsilon": candidate.epsilon,
                "accuracy": _numbers(candidate.accuracy),
                "utility": {
                    "metric": candidate.utility.metric.name,
                    **_numbers(candidate.utility),
                },
                "risks": {
                    metric: {"attack": row.attack, **_numbers(row)}
                    for metric, row in candidate.risks.items()
                },
                "proven": candidate.ceilings,
                "asked": list(candidate.asked),
            }

        return {
            "demands": self.demands,
            "where": [demand.text for demand in self.where],
            "meeting": [plain(candidate) for candidate in self.meeting],
            "undecided": [plain(candidate) for candidate in self.undecided],
            "failing": [plain(candidate) for candidate in self.failing],
            "refuted": [plain(candidate) for candidate in self.refuted],
            "pareto_measured": self.measured,
            "pareto_proven": self.proven,
            "notes": self.notes,
        }

    def json(self) -> str:
        return json.dumps(self.record(), indent=1, allow_nan=False)

    def text(self) -> str:
        every = [f"{key}={value:g}" for key, value in self.demands.items()]
        asked = ", ".join([*every, *(demand.text for demand in self.where)])
        lines = [f"Asked: {asked}." if asked else "Nothing asked: the frontiers alone."]
        if asked and self.meeting:
            lines.append(f"Take {_line(self.meeting[0])}.")
            lines.append(
                f"Runner-up: {_line(self.meeting[1])}."
                if len(self.meeting) > 1
                else "Runner-up: no other setting meets the demand."
            )
        elif asked:
            lines.append("No setting of this sweep meets it for certain.")
        lines += [
            f"Undecided (the estimate meets it, the interval does not): {_line(candidate)}."
            for candidate in self.undecided
        ]
        if asked and self.failing:
            lines.append(
                f"Does not meet it: {', '.join(candidate.name for candidate in self.failing)}."
            )
        if self.refuted:
            lines.append(
                "REFUTED, not to be used: "
                f"{', '.join(each.name for each in self.refuted)}; more was measured than "
                "was proved."
            )
        lines.append(f"Best against measured risk: {', '.join(self.measured) or 'no setting'}.")
        lines.append(
            "Best against proven risk: "
            f"{', '.join(self.proven) or 'no setting, since none is private'}."
        )
        return "\n".join([*lines, *self.notes])


def advise(config: AdviseConfig) -> Advice:
    """Raises RunError for a folder without a finished sweep, and TargetError for a demand that
    nothing in it speaks of.
    """
    record = read(Path(config.run or ""))
    rows, groups, statements = record.rows, record.groups, record.statements
    utility = config.utility or record.utility
    differences = record.differences.get(utility, {})
    every = candidates(rows, utility)
    _require_fitting(config, utility)
    leaking = any(row.attack == BLIND and row.contradicted for row in rows)
    trusted, refuted = (
        [candidate for candidate in every if not candidate.refuted],
        [candidate for candidate in every if candidate.refuted],
    )
    demands = {
        key: value
        for key in (*DEMANDS, *UTILITY_DEMANDS, "max_epsilon")
        if (value := getattr(config, key)) is not None
    }
    for key, (metric, title) in DEMANDS.items():
        if key in demands and not any(metric in candidate.risks for candidate in every):
            raise TargetError(
                f"this sweep has no {title}: too few non-members to measure it; use "
                "max_auc, or a larger pool and more models",
                key,
            )
    where = parse(config.where)
    require_measured(where, rows, groups)
    meeting: list[Candidate] = []
    undecided: list[Candidate] = []
    failing: list[Candidate] = []
    for candidate in trusted:
        sure, likely = _meets(candidate, demands)
        asked = []
        for demand in where:
            measured = numbers(demand, candidate.name, rows, groups)
            met = meets(demand, measured)
            sure, likely = sure and met[0], likely and met[1]
            asked.append(shown(demand, measured))
        candidate = replace(candidate, asked=tuple(asked))
        (failing if leaking or not likely else meeting if sure else undecided).append(candidate)
    # Asked for utility, the safest is best; asked for safety, the most useful.
    useful = all(demand.of_utility for demand in where)
    by_risk = bool(demands or where) and set(demands) <= set(UTILITY_DEMANDS) and useful
    for some in (meeting, undecided):
        some.sort(key=_risk if by_risk else lambda candidate: -candidate.merit)
    notes = _notes(meeting, undecided, by_risk, rows, statements, differences)
    if leaking:
        notes.insert(
            0,
            "INVALID: a blind classifier tells members from non-members, so no number of "
            "this sweep says anything.",
        )
    elif meeting and not by_risk:
        alike = [
            candidate
            for candidate in meeting
            if candidate is meeting[0] or _alike(meeting[0], candidate, differences)
        ]
        if (best := min(alike, key=_proof)) is not meeting[0]:
            notes.insert(
                0,
                f"{best.name} comes before {meeting[0].name}: its proof is stronger, and "
                f"they cannot be told apart in {best.measure.title}.",
            )
            meeting.remove(best)
            meeting.insert(0, best)
    return Advice(demands, where, meeting, undecided, failing, refuted, *frontiers(trusted), notes)


Differences = Mapping[str, Mapping[str, Sequence[float]]]


def _alike(candidate: Candidate, other: Candidate, differences: Differences) -> bool:
    """Whether the utilities of two settings cannot be told apart: by their paired difference, or
    where a file has none by their intervals.
    """
    if paired := differences.get(candidate.name, {}).get(other.name):
        return paired[1] <= 0 <= paired[2]
    if candidate.measure.higher:
        return (other.utility.estimate or 0.0) >= (candidate.utility.low or 0.0)
    return (other.utility.estimate or 0.0) <= (candidate.utility.high or 0.0)


def _proof(candidate: Candidate) -> float:
    """Proved ceiling of the AUC, or what stands for it: less is stronger; 1 without a proof."""
    ceiling = candidate.ceilings.get("auc")
    return (
        1.0
        if candidate.epsilon is None
        else ceiling
        if ceiling is not None
        else candidate.epsilon / (1 + candidate.epsilon)
    )


def _require_fitting(config: AdviseConfig, utility: str) -> None:
    """Raise TargetError for a demand that looks the wrong way."""
    higher, title = UTILITIES[utility].higher, UTILITIES[utility].title
    if higher and config.max_loss is not None:
        raise TargetError(f"of {title} more is better; use min_utility", "max_loss")
    if not higher and config.min_utility is not None:
        raise TargetError(f"of {title} less is better; use max_loss", "min_utility")


def candidates(rows: Sequence[Row], utility: str = "accuracy") -> list[Candidate]:
    """The settings of a sweep. Raises TargetError where it did not measure the utility."""
    values = {row.setting: row for row in rows if row.metric == metric_of(utility)}
    refused = [row.note for row in values.values() if row.estimate is None]
    if refused and len(refused) == len(values):
        raise TargetError(f"{UTILITIES[utility].title} is {refused[0]}; choose another", "utility")
    if not values:
        title = UTILITIES[utility].title
        raise TargetError(
            f"this sweep has no {title}; run it again, which trains nothing", "utility"
        )
    result = []
    one_of = metric_of(utility) if UTILITIES[utility].regression else TEST_ACCURACY
    for accuracy in (
        row
        for row in rows
        if row.metric == one_of and row.estimate is not None and row.setting != CONSTANT
    ):
        of_setting = [
            row
            for row in rows
            if row.setting == accuracy.setting
            and row.attack
            and row.attack != BLIND
            and row.estimate is not None
            and row.examples != "rows"
        ]
        risks, highest, ceilings = {}, {}, {}
        for metric, _ in DEMANDS.values():
            # Canaries too: the worst case that was measured.
            of = [row for row in of_setting if row.metric.name == metric]
            if of:
                risks[metric] = max(of, key=lambda row: row.estimate or 0.0)
                highest[metric] = max(1.0 if row.high is None else row.high for row in of)
                known = [row.ceiling for row in of if row.ceiling is not None]
                ceilings[metric] = min(known) if known else None
        broken = any(row.contradicted for row in of_setting)
        result.append(
            Candidate(
                accuracy.setting,
                accuracy.epsilon,
                accuracy,
                values[accuracy.setting],
                risks,
                highest,
                ceilings,
                broken,
            )
        )
    return result


def frontiers(trusted: Sequence[Candidate]) -> tuple[list[str], list[str]]:
    """Names of the settings that no other beats in both utility and AUC: as measured, and as
    proved.
    """

    def best(some: list[Candidate], risks: list[float]) -> list[str]:
        points = [(risk, candidate.merit) for risk, candidate in zip(risks, some, strict=True)]
        return [some[index].name for index in undominated(points)]

    attacked = [candidate for candidate in trusted if "auc" in candidate.risks]
    proved = {
        candidate.name: ceiling
        for candidate in attacked
        if (ceiling := candidate.ceilings["auc"]) is not None
    }
    private = [candidate for candidate in attacked if candidate.name in proved]
    return best(attacked, [_risk(candidate) for candidate in attacked]), best(
        private, [proved[candidate.name] for candidate in private]
    )


def _risk(candidate: Candidate) -> float:
    return (candidate.risks["auc"].estimate or 0.0) if "auc" in candidate.risks else 1.0


def _meets(candidate: Candidate, demands: dict[str, float]) -> tuple[bool, bool]:
    """Whether a setting meets the demands at the safe end of every interval, and whether its
    estimates do. A proof is as good.
    """
    sure = likely = True
    for key, (metric, _) in DEMANDS.items():
        if key in demands:
            row, ceiling = candidate.risks.get(metric), candidate.ceilings.get(metric)
            proved = ceiling is not None and ceiling <= demands[key]
            sure &= proved or candidate.highest.get(metric, 1.0) <= demands[key]
            likely &= proved or (row is not None and (row.estimate or 0.0) <= demands[key])
    for key, row in (("min_accuracy", candidate.accuracy), ("min_utility", candidate.utility)):
        if key in demands:
            sure &= (row.low or 0.0) >= demands[key]
            likely &= (row.estimate or 0.0) >= demands[key]
    if "max_loss" in demands:
        row = candidate.utility
        sure &= row.high is not None and row.high <= demands["max_loss"]
        likely &= row.estimate is not None and row.estimate <= demands["max_loss"]
    if "max_epsilon" in demands:
        sure &= candidate.epsilon is not None and candidate.epsilon <= demands["max_epsilon"]
        likely &= candidate.epsilon is not None and candidate.epsilon <= demands["max_epsilon"]
    return sure, likely


def _notes(
    meeting: list[Candidate],
    undecided: list[Candidate],
    by_risk: bool,
    rows: Sequence[Row],
    statements: Mapping[str, PrivacyStatement],
    differences: Differences,
) -> list[str]:
    notes = []
    if len(meeting) > 1:
        candidate, two = (item.risks.get("auc", item.utility) for item in meeting[:2])
        overlap = min(candidate.high or 1, two.high or 1) >= max(candidate.low or 0, two.low or 0)
        if overlap if by_risk else _alike(meeting[0], meeting[1], differences):
            what = "risk" if by_risk else meeting[0].measure.title
            notes.append(
                f"The {what} of {meeting[0].name} and {meeting[1].name} cannot be told apart."
            )
    named = [candidate for candidate in (*meeting, *undecided) if candidate.epsilon is None]
    if named:
        notes.append(
            f"{', '.join(candidate.name for candidate in named)}: measured against these attacks "
            "only. Nothing is proved, and a stronger attack may succeed."
        )
    private = [candidate for candidate in meeting if candidate.epsilon is not None]
    if private and private[0].name in statements:
        notes.append(f"{private[0].name}: {sentences(statements[private[0].name])['guarantee']}.")
    targets = max((row.targets for row in rows), default=0)
    notes.append(
        f"Numbers are means over {targets} models with 95 % intervals; the risk of a "
        "single example can be far above its mean. The strongest attack is chosen on "
        "the same numbers, which errs upwards."
    )
    if either := [*meeting, *undecided]:
        notes += said_of_epsilon(statements, differences, either[0].measure.title)
    notes.append(
        "Choosing among settings by their utility or attacks on private data costs "
        "privacy that no epsilon here counts."
    )
    if (priced := price(statements)) is not None:
        count, spent = priced
        notes.append(
            f"That choice is unpriced. Had dptrain tune drawn its trials among these {count} "
            f"private settings, {count} in the mean, the model that it chose would have epsilon "
            f"{rounded_up(spent, 2)}, training and choice together."
        )
    everyone = [row for row in rows if row.examples == "all"]
    measured = {row.metric.name for row in everyone if row.estimate is not None}
    refused = sorted({row.metric.name for row in everyone} - measured)
    if refused:
        notes.append(f"Not measured, for want of examples or models: {', '.join(refused)}.")
    return notes


def _line(candidate: Candidate) -> str:
    measured = dict.fromkeys([candidate.utility, candidate.accuracy])
    titles = {TEST_ACCURACY: "accuracy", candidate.utility.metric: candidate.measure.title}
    parts = [f"{titles[row.metric]} {_shown(row)}" for row in measured]
    for metric, title in DEMANDS.values():
        if row := candidate.risks.get(metric):
            ceiling = candidate.ceilings.get(metric)
            proof = f", proved at most {rounded_up(ceiling, 3)}" if ceiling is not None else ""
            parts.append(f"{title} {_shown(row)} by {row.attack}{proof}")
    return f"{candidate.name}: {'; '.join([*candidate.asked, *parts])}"


def _shown(row: Row) -> str:
    return (
        f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]"
        if row.low is not None and row.high is not None
        else f"{row.estimate:.3f}"
    )


def _numbers(row: Row) -> dict[str, float | None]:
    return {"estimate": row.estimate, "low": row.low, "high": row.high}
