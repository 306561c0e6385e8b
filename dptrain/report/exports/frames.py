"""Every number of a run as plain tables of values, a line a number, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

import pandas as pd

from dptrain.evaluation.subgroups import GroupRow
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.record import Record

NESTED = ("evaluated", "versions", "regularisation", "release", "model_options", "views")
"""Of a statement: what is no single value."""


def frames(record: Record) -> dict[str, pd.DataFrame]:
    """Name -> table; those without a line are left out."""
    lines: dict[str, Iterable[Mapping[str, Any]]] = {
        "numbers": [row.to_json() for row in record.rows],
        "privacy": [
            {"setting": name, **_privacy(statement)}
            for name, statement in record.statements.items()
        ],
        "differences": _differences(record),
        "groups": _of_parts(record.groups),
        "classes": _of_parts(record.classes),
        "exposed": _exposed(record),
        "training": [
            {"setting": name, **point}
            for name, points in record.training.items()
            for point in points
        ],
        "roc": _roc(record),
    }
    made = {name: pd.DataFrame(list(each)) for name, each in lines.items()}
    return {name: frame for name, frame in made.items() if len(frame)}


def _of_parts(rows: Sequence[GroupRow]) -> list[dict[str, Any]]:
    """Of groups, or of classes."""
    return [
        {**row.to_json(), **_limits(row.to_json(), ("value", "gap", "change", "excess"))}
        for row in rows
    ]


def _limits(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Estimate and limits of each as three columns beside its own name, which is emptied."""
    limits: dict[str, Any] = {}
    for name in names:
        estimate, low, high = values[name] or (None, None, None)
        limits |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    return limits


def _differences(record: Record) -> list[dict[str, Any]]:
    return [
        {"utility": utility, "setting": setting, "less": other}
        | dict(zip(("estimate", "low", "high"), limits, strict=True))
        for utility, of_setting in record.differences.items()
        for setting, others in of_setting.items()
        for other, limits in others.items()
    ]


def _exposed(record: Record) -> list[dict[str, Any]]:
    return [
        {"setting": setting, "attack": attack, **example}
        for setting, of_setting in record.exposed.items()
        for attack, examples in of_setting.get("vulnerable", {}).items()
        for example in examples
    ]


def _roc(record: Record) -> list[dict[str, Any]]:
    """The bound of a setting is a curve of the attack `proved bound`."""
    curves = [
        (roc.setting, attack, curve) for roc in record.rocs for attack, curve in roc.curves.items()
    ]
    curves += [(roc.setting, "proved bound", roc.bound) for roc in record.rocs if roc.bound]
    return [
        {"setting": setting, "attack": attack, "fpr": float(x), "tpr": float(y)}
        for setting, attack, (fpr, tpr) in curves
        for x, y in zip(fpr, tpr, strict=True)
    ]


def _privacy(statement: PrivacyStatement) -> dict[str, Any]:
    """A statement as one line: what lies in a part of it has that part's name before its own."""
    line: dict[str, Any] = {}
    for each in fields(statement):
        value = getattr(statement, each.name)
        if each.name in NESTED:
            continue
        if each.name in ("accountants", "ceilings", "hardening", "selection", "group"):
            parts = value if isinstance(value, Mapping) else vars(value) if value else {}
            line |= _flat(each.name, parts)
        else:
            line[each.name] = _plain(value)
    after = statement.evaluated
    if after is not None:
        line["measured_epsilon"] = after.measured.epsilon if after.measured else None
        line["refuted"] = after.refuted is not None
        line["joint_epsilon"] = after.composed.epsilon if after.composed else None
    return line


def _flat(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parts.items():
        if isinstance(value, Mapping):
            flat |= _flat(f"{name}_{key}", value)
        else:
            flat[f"{name}_{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
