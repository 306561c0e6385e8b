"""Papers that are repeated by training: sweeps of this package, and numbers picked from their
rows.

A quantity of a preset names a sweep, a setting, an attack and a metric. With several seeds its
value is the mean over them, from the least to the greatest; with one it has the interval of its
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.config import compose
from dptrain.core.errors import PaperError
from dptrain.evaluation.rows import Row
from dptrain.papers.verdicts import Measured
from dptrain.pipeline import foreign_scores, run


def attacked(parameters: Mapping[str, Any], folder: Path) -> dict[str, Measured]:
    """The attacks on predictions that the authors published."""
    chosen = compose.load(
        "attack",
        [f"attacks=[{','.join(parameters['attacks'])}]"],
        {"scores": str(parameters["scores"])},
    )
    rows = foreign_scores.evaluate_file(chosen).rows
    return {
        quantity: _of_rows([rows], picked) for quantity, picked in parameters["quantities"].items()
    }


def trained(parameters: Mapping[str, Any], folder: Path) -> dict[str, Measured]:
    """Sweeps, one for each name and seed, in folders below `folder`; a finished one is read."""
    rows: dict[str, list[Sequence[Row]]] = {}
    for name, overrides in parameters["sweeps"].items():
        for seed in parameters.get("seeds", [0]):
            where = folder / "runs" / f"{name}-{seed}"
            keys = [f"seed={seed}", f"name={name}", f"output={where}"]
            config = compose.load("sweep", [*parameters.get("overrides", []), *overrides, *keys])
            rows.setdefault(name, []).append(run.sweep(config, show_progress=True).rows)
    measured = {}
    for quantity, picked in parameters["quantities"].items():
        sweep = picked.get("sweep", next(iter(rows)))
        measured[quantity] = _of_rows(rows[sweep], picked)
    return measured


def _of_rows(of_seeds: Sequence[Sequence[Row]], picked: Mapping[str, Any]) -> Measured:
    """Raises PaperError where a number was refused, or is of no sweep."""
    chosen = [_row(rows, picked) for rows in of_seeds]
    values = [row.estimate for row in chosen if row.estimate is not None]
    if len(values) < len(chosen):
        refused = next(row for row in chosen if row.estimate is None)
        raise PaperError(f"{_named(picked)} was refused: {refused.note}")
    if len(chosen) > 1:
        return Measured(float(np.mean(values)), min(values), max(values), f"{len(values)} seeds")
    [row] = chosen
    of = f"{row.targets} models" if row.targets > 1 else "1 model"
    low = values[0] if row.low is None else row.low
    return Measured(values[0], low, values[0] if row.high is None else row.high, of)


def _row(rows: Sequence[Row], picked: Mapping[str, Any]) -> Row:
    wanted = {"attack": None, "examples": "all", **picked}
    wanted.pop("sweep", None)
    for row in rows:
        plain = {**vars(row), "metric": row.metric.name}
        if all(plain[key] == value for key, value in wanted.items()):
            return row
    raise PaperError(f"no row is {_named(picked)}")


def _named(picked: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in picked.items())
