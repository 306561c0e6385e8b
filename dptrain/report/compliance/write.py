"""The compliance folder of a run: hazards answered, model cards, entries of the registry."""

from __future__ import annotations

import re
from pathlib import Path

from dptrain.core.errors import RunError
from dptrain.core.store import write_atomic
from dptrain.report import tables
from dptrain.report.compliance.cards import TO_ANSWER, model_card, registry
from dptrain.report.compliance.hazards import EDITION, Status, answers
from dptrain.report.page import ENVIRONMENT
from dptrain.report.record import Record, cleared, made

FOLDER = "compliance"


def compliance(folder: Path, record: Record) -> Path:
    """Write hazards.md and hazards.html, and a folder a setting with model_card.md and, where
    something is claimed, deployment.yaml; returns where. Raises RunError for a run without privacy
    statements.
    """
    if record.compares:
        raise RunError("hazards are of one run, and this compares several; give one of them")
    if not record.statements:
        raise RunError("it has no privacy statements, so there is nothing to answer")
    cleared(folder / FOLDER)  # of settings that the run has no longer
    where = made(folder / FOLDER)
    write_atomic(where / "hazards.md", markdown(record).encode())
    write_atomic(where / "hazards.html", page(record).encode())
    for setting in record.statements:
        of_setting = where / re.sub(r"[^A-Za-z0-9._-]", "_", setting)
        of_setting.mkdir(exist_ok=True)
        write_atomic(of_setting / "model_card.md", model_card(record, setting).encode())
        entry = registry(record, setting)
        if entry is not None:
            write_atomic(of_setting / "deployment.yaml", entry.encode())
    return where


def _title(record: Record) -> str:
    return f"{record.name}: hazards of differential privacy, one by one"


def _opening(record: Record) -> list[str]:
    count = sum(answer.status != Status.ORGANISATION for _, answer in answers(record))
    return [
        f"After {EDITION}, shortened where dots stand, with words of ours in brackets; the final "
        f"text of 2025 may differ. {count} hazards are answered from numbers, wholly or in part; "
        "the others only the organisation can answer. This page comes from private data and is for "
        "those who may see them.",
        *tables.warnings(record.rows),
    ]


def markdown(record: Record) -> str:
    """The hazards with their answers, in Markdown."""
    lines = [f"# {_title(record)}", "", *(f"{line}\n" for line in _opening(record))]
    for number, (hazard, answer) in enumerate(answers(record), 1):
        lines += [f"## {number}. {hazard}", "", f"*{answer.status}*", ""]
        lines += [f"- {_escaped(text)}" for text in answer.text] or [TO_ANSWER]
        lines.append("")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", text)


def page(record: Record) -> str:
    """The same as one HTML file."""
    first, *alarms = _opening(record)
    return ENVIRONMENT.get_template("hazards.html").render(
        title=_title(record),
        opening=first,
        warnings=alarms,
        answers=answers(record),
        to_answer=TO_ANSWER,
        answered=Status.ANSWERED,
    )
