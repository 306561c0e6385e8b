"""What a finished sweep leaves in its folder, and how it is read back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.image import imread

from dptrain import ledger, plots, report, tensorboard
from dptrain.evaluate import Evaluation
from dptrain.fleet import Fleet
from dptrain.judge import Row
from dptrain.plan import Plan
from dptrain.statement import as_lines
from dptrain.store import digests, seal, unseal, versions, write_atomic

OUTPUTS = ("report.html", "table.md", "frontier.png", "frontier.svg", "roc.png", "roc.svg", "tensorboard")


@dataclass(frozen=True)
class Result:
    """A finished sweep: its folder, its rows, a statement for each setting, and the models trained by this very call."""

    folder: Path
    rows: tuple[Row, ...]
    statements: Mapping[str, Mapping[str, str]]
    trained: int

    def to_frame(self) -> pd.DataFrame:
        """A line for each number; the columns are those of judge.Row."""
        return pd.DataFrame([row.to_json() for row in self.rows])


def write_outputs(ready: Plan, fleet: Fleet, found: Evaluation, statements: Mapping[str, Mapping[str, str]]) -> None:
    """Chart files, page, TensorBoard, and last metrics.json, whose fingerprint says that all of them are there."""
    folder, config, rows, curves = ready.config.folder, ready.config, found.rows, found.curves
    figures = {"frontier": plots.frontier(rows), "roc": plots.roc(curves)}
    png = {name: report.image(figure, "png") for name, figure in figures.items()}
    for name, figure in figures.items():
        write_atomic(folder / f"{name}.png", png[name])
        write_atomic(folder / f"{name}.svg", report.image(figure, "svg"))
    plain = config.to_json()
    page = report.page(
        config.name,
        rows,
        statements,
        {"Privacy and utility": png["frontier"], "ROC of every attack": png["roc"]},
        found.exposed,
        json.dumps(plain, indent=1),
        versions(),
    )
    write_atomic(folder / "report.html", page.encode())
    write_atomic(folder / "table.md", (report.table(*report.summary(rows)) + "\n").encode())
    lines = {name: as_lines(parts) for name, parts in statements.items()}
    training = {setting.name: fleet.curve(setting) for setting in ready.settings}
    panels = {curve.setting: _pixels(report.image(plots.roc([curve]), "png")) for curve in curves}
    with tensorboard.faults():
        tensorboard.rebuild(folder / "tensorboard", ready.settings, training, rows, lines, panels, _pixels(png["frontier"]))
    record = {
        "rows": [row.to_json() for row in rows],
        "exposed": found.exposed,
        "statements": statements,
        "config": plain,
        "versions": versions(),
        "ledger": fleet.spent.digest,
        "fingerprint": ready.fingerprint,
        "differences": found.differences,
        "outputs": digests(folder, OUTPUTS),
    }
    write_atomic(folder / "metrics.json", seal(record))


def _pixels(png: bytes) -> np.ndarray:
    return (imread(io.BytesIO(png))[..., :3] * 255).astype(np.uint8)


def read_result(folder: Path, ready: Plan) -> Result | None:
    """The finished sweep of this very plan in `folder`, or None."""
    try:
        record = unseal((folder / "metrics.json").read_bytes())
        if record.get("fingerprint") != ready.fingerprint or record.get("outputs") != digests(folder, OUTPUTS):
            return None
    except (OSError, ValueError):
        return None
    if record.get("ledger") != ledger.read(folder / "store" / "ledger").digest:  # what was spent since, or what was lost, must be told anew
        return None
    return Result(folder, tuple(Row(**row) for row in record["rows"]), record["statements"], 0)
