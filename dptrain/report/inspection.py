"""An inspected table as text."""

from __future__ import annotations

import json as json_library
from itertools import islice

from dptrain.core.errors import printable
from dptrain.data.columns import Kind
from dptrain.data.inspection import Inspection
from dptrain.report.tables import table

SHOWN = 10
"""Classes that are listed."""


def json(inspected: Inspection) -> str:
    return json_library.dumps(inspected.record(), indent=1, allow_nan=False)


def _kind(kind: Kind | None) -> str:
    """None: of what is no input."""
    if kind is None:
        return "-"
    return str(kind) if kind.used else "left out"


def text(inspected: Inspection) -> str:
    """A line a column, the classes, the splits, and what to look at."""
    body = [
        [
            printable(column.name),
            _kind(column.kind),
            f"{column.missing:.1%}",
            f"{column.distinct:,}",
            printable("; ".join(column.notes)),
        ]
        for column in inspected.columns
    ]
    lines = [table(["column", "taken as", "missing", "different", "note"], body), ""]
    lines.append(f"{inspected.rows:,} rows, of which {inspected.used:,} can be used.")
    if inspected.classes:
        total = sum(inspected.classes.values())
        shares = [
            f"{printable(name)} {count / total:.1%}"
            for name, count in islice(inspected.classes.items(), SHOWN)
        ]
        more = len(inspected.classes) - SHOWN
        ending = f" and {more:,} others" if more > 0 else ""
        lines.append(f"Classes: {', '.join(shares)}{ending}.")
        pool, population, test = inspected.split
        lines.append(f"Splits: pool {pool:,}, population {population:,}, test {test:,}.")
    keys = " ".join(f"dataset.{key}={size}" for key, size in inspected.suggested._asdict().items())
    counted = " (of users)" if inspected.users else ""
    lines.append(f"Suggested, which a sweep takes by default: {keys}{counted}.")
    lines += [f"{printable(note)[:1].upper()}{printable(note)[1:]}." for note in inspected.notes]
    return "\n".join(lines)
