"""Repeat a paper: run its procedure, compare, and write what came out beside what was expected."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dptrain.core.store import seal, unseal, versions, write_atomic
from dptrain.papers import accounting, audits, presets, sweeps, verdicts
from dptrain.papers.presets import Preset
from dptrain.papers.verdicts import Line, Measured, Verdict
from dptrain.report import tables

Procedure = Callable[[Mapping[str, Any], Path], dict[str, Measured]]
RESULT = "result.json"
HEAD = """# Papers repeated

What published results gave here, by `dptrain reproduce NAME`. A preset is "reproduced" where every
one of its conditions holds; each table has the paper's number, where that is known from, ours with
its spread, and what was accepted. What does not reproduce stays here with the reason."""


def _alone(
    compute: Callable[[Mapping[str, Any]], dict[str, Measured]],
) -> Procedure:
    """A procedure that writes no files."""
    return lambda parameters, folder: compute(parameters)


PROCEDURES: dict[str, Procedure] = {
    "compositions": _alone(accounting.compositions),
    "attack_risk": _alone(accounting.attack_risk),
    "idealised": _alone(audits.idealised),
    "attacked": sweeps.attacked,
    "trained": sweeps.trained,
}


@dataclass(frozen=True)
class Outcome:
    """measured: by quantity; minutes: of the run that measured; date: when."""

    preset: Preset
    measured: Mapping[str, Measured]
    minutes: float
    date: str

    @property
    def lines(self) -> list[tuple[Line, Verdict]]:
        return verdicts.judged(self.preset.expected, self.measured)

    @property
    def reproduced(self) -> bool:
        return verdicts.reproduced(self.lines)

    def text(self) -> str:
        """The table `paper | ours`, and the verdict."""
        holds = "reproduced" if self.reproduced else "not reproduced"
        table = tables.table(*verdicts.table(self.lines))
        return (
            f"{self.preset.title}\n\n{table}\n\n{self.preset.name}: {holds}. {self.preset.lesson}"
        )


def reproduce(name: str, folder: Path | None = None, shrunk: bool = False) -> Outcome:
    """Repeat a paper, or read what this very preset measured before. shrunk: a form of seconds,
    whose numbers mean nothing. Raises PaperError for an unknown name.
    """
    preset = presets.load(name)
    folder = folder or presets.folder_of(name)
    before = None if shrunk else _read(preset, folder)
    if before is not None:
        return before
    parameters = {**preset.parameters, **(preset.shrunk if shrunk else {})}
    start = time.monotonic()
    measured = PROCEDURES[preset.procedure](parameters, folder)
    minutes = (time.monotonic() - start) / 60
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    outcome = Outcome(preset, measured, minutes, today)
    if not shrunk:
        _write(outcome, folder)
    return outcome


def _write(outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "paper": outcome.preset.name,
        "fingerprint": outcome.preset.fingerprint,
        "measured": {name: asdict(each) for name, each in outcome.measured.items()},
        "minutes": round(outcome.minutes, 2),
        "date": outcome.date,
        "versions": versions(),
    }
    write_atomic(folder / RESULT, seal(record))
    write_atomic(folder / "table.md", f"{outcome.text()}\n".encode())
    if folder == presets.folder_of(outcome.preset.name):
        write_atomic(folder.parent / "README.md", f"{HEAD}\n\n{index(folder.parent)}\n".encode())


def _read(preset: Preset, folder: Path) -> Outcome | None:
    """What this very preset measured, or None."""
    try:
        record = unseal((folder / RESULT).read_bytes())
    except (OSError, ValueError):
        return None
    if record.get("fingerprint") != preset.fingerprint:
        return None
    measured = {name: Measured(**each) for name, each in record["measured"].items()}
    return Outcome(preset, measured, record["minutes"], record["date"])


def index(folder: Path) -> str:
    """The table of all presets: what was repeated in `folder`, and what was not."""
    head = ["preset", "paper", "agree", "verdict", "date", "minutes", "lesson"]
    body = []
    for name in presets.names():
        preset = presets.load(name)
        outcome = _read(preset, folder / name)
        if outcome is None:
            shown, row = name, ["-", "not run", "-", f"about {preset.minutes:g}"]
        else:
            conditions = [each for _, each in outcome.lines if each != Verdict.SHOWN]
            agree = f"{conditions.count(Verdict.AGREES)} of {len(conditions)}"
            verdict = "reproduced" if outcome.reproduced else "not reproduced"
            shown = f"[{name}]({name}/table.md)"
            row = [agree, verdict, outcome.date, f"{outcome.minutes:.1f}"]
        body.append([shown, preset.title, *row, preset.lesson])
    return tables.table(head, body)
