"""Several finished runs as one record, in which a setting is `RUN/SETTING`: whatever is made of a
run is made of them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.core.errors import ComparisonError
from dptrain.evaluation.rows import BLIND, Row
from dptrain.evaluation.utility import CONSTANT, UTILITIES
from dptrain.report.record import RUNS, Record, read


def merged(folders: Sequence[Path]) -> Record:
    """The runs in some folders. The constant predictions, and differences, which pair models of one
    run, are left out. Raises RunError for a folder without a run, and ComparisonError for one run
    only, for runs that are compared by different utilities, and for a run that says nothing, since
    its split leaks.
    """
    if len(folders) < 2:
        raise ComparisonError(
            "one run is not compared; give two or more, such as runs=[results/a,out/b]"
        )
    records = {name: read(folder) for name, folder in _named(folders).items()}
    utilities = {name: record.utility for name, record in records.items()}
    if len(set(utilities.values())) > 1:
        shown = ", ".join(f"{name}: {UTILITIES[each].title}" for name, each in utilities.items())
        raise ComparisonError(
            f"they are compared by different utilities ({shown}); set utility= anew"
        )
    for name, record in records.items():
        if any(row.attack == BLIND and row.contradicted for row in record.rows):
            raise ComparisonError(
                f"{name} says nothing, since members differ before training; leave it"
            )
    config: dict[str, Any] = {
        "utility": next(iter(utilities.values())),
        RUNS: {name: record.config for name, record in records.items()},
    }
    return Record(
        name=", ".join(records),
        rows=[row for name, record in records.items() for row in _rows(name, record)],
        statements=_renamed({name: record.statements for name, record in records.items()}),
        exposed=_renamed({name: record.exposed for name, record in records.items()}),
        config=config,
        versions=_versions(records),
        groups=[
            replace(row, setting=f"{name}/{row.setting}")
            for name, record in records.items()
            for row in record.groups
        ],
        classes=[
            replace(row, setting=f"{name}/{row.setting}")
            for name, record in records.items()
            for row in record.classes
        ],
        training=_renamed({name: record.training for name, record in records.items()}),
        rocs=[
            replace(roc, setting=f"{name}/{roc.setting}")
            for name, record in records.items()
            for roc in record.rocs
        ],
        remarks=remarks(records),
    )


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """By the last part of their paths, or by the whole where that is not unique; no name leads out
    of a folder.
    """
    whole = {folder: folder.resolve() for folder in folders}
    last = [each.name for each in whole.values()]
    named = {
        each.name if last.count(each.name) == 1 else "_".join(each.parts[1:]): folder
        for folder, each in whole.items()
    }
    if len(named) < len(folders):
        raise ComparisonError("the same run is there twice; give each folder once")
    return named


def _rows(name: str, record: Record) -> list[Row]:
    """The rows of one run, without those that are of the whole run and not of a setting."""
    return [
        replace(row, setting=f"{name}/{row.setting}")
        for row in record.rows
        if row.setting != CONSTANT and row.attack != BLIND
    ]


def _renamed(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{name}/{setting}": value
        for name, part in parts.items()
        for setting, value in part.items()
    }


def _versions(records: Mapping[str, Record]) -> dict[str, str]:
    """Of each package all versions that took part."""
    every: dict[str, dict[str, None]] = {}
    for record in records.values():
        for package, version in record.versions.items():
            every.setdefault(package, {})[version] = None
    return {package: ", ".join(versions) for package, versions in every.items()}


def remarks(records: Mapping[str, Record]) -> list[str]:
    """What must be known before numbers of these runs are held against each other: of what their
    guarantees differ, and every key that differs.
    """
    lines = [
        "Runs are of different models: their differences are not paired, and intervals that "
        "overlap tell nothing apart."
    ]
    private = [
        statement
        for record in records.values()
        for statement in record.statements.values()
        if statement.private
    ]
    what = {
        "delta": {f"{statement.delta:g}" for statement in private},
        "unit of privacy": {statement.unit for statement in private},
        "notion of neighbours": {str(statement.neighbouring) for statement in private},
    }
    lines += [
        f"Epsilons of these runs are not comparable: the {name} differs "
        f"({'; '.join(sorted(values))})."
        for name, values in what.items()
        if len(values) > 1
    ]
    flat = {name: _flat(record.config) for name, record in records.items()}
    keys = dict.fromkeys(key for each in flat.values() for key in each)
    for key in keys:
        values = {name: each.get(key) for name, each in flat.items()}
        if key not in ("name", "output") and len(set(map(repr, values.values()))) > 1:
            shown = ", ".join(f"{name} {value}" for name, value in values.items())
            lines.append(f"{key}: {shown}.")
    return lines


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
