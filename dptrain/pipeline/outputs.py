"""What a finished sweep leaves in its folder, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dptrain.core.store import digests, seal, to_json, unseal, versions, write_atomic
from dptrain.evaluation.rows import Row
from dptrain.evaluation.subgroups import GroupRow
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.pipeline.evaluation import SweepEvaluation
from dptrain.pipeline.plan import Plan
from dptrain.privacy import ledger
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report import figures, tables, tensorboard
from dptrain.report.page import Report, page
from dptrain.report.statement import lines

if TYPE_CHECKING:
    import pandas as pd

METRICS = "metrics.json"
USED = "artefacts.json"
"""Stage and key of every artefact that the sweep read or wrote."""
OUTPUTS = (
    "report.html",
    "table.md",
    "frontier.png",
    "frontier.svg",
    "roc.png",
    "roc.svg",
    "tensorboard",
    USED,
)


@dataclass(frozen=True)
class Result:
    """A finished sweep: its folder, its rows, a statement for each setting, the number of models
    trained by this very call, the utility that its table shows, the differences between its
    settings, and its numbers by subgroup.
    """

    folder: Path
    rows: tuple[Row, ...]
    statements: Mapping[str, PrivacyStatement]
    trained: int
    utility: str = "accuracy"
    differences: tables.Differences = field(default_factory=dict)
    groups: tuple[GroupRow, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A line for each number; the columns are those of rows.Row."""
        import pandas as pd

        return pd.DataFrame([row.to_json() for row in self.rows])


def write_outputs(
    ready: Plan,
    fleet: Fleet,
    evaluation: SweepEvaluation,
    statements: Mapping[str, PrivacyStatement],
    spent: ledger.Snapshot,
) -> None:
    """Chart files, page, TensorBoard, and last metrics.json, whose fingerprint says that all of
    them are there.
    """
    folder, config, rows = ready.config.folder, ready.config, evaluation.rows
    broken = tables.refuted(rows)
    rocs = {
        roc.setting: replace(roc, setting=f"{roc.setting}{tables.REFUTED}")
        if roc.setting in broken
        else roc
        for roc in evaluation.curves
    }
    drawn = {
        "frontier": figures.frontier(rows, config.utility),
        "roc": figures.roc(list(rocs.values())),
    }
    png = {name: figures.image(figure, "png") for name, figure in drawn.items()}
    for name, figure in drawn.items():
        write_atomic(folder / f"{name}.png", png[name])
        write_atomic(folder / f"{name}.svg", figures.image(figure, "svg"))
    plain = config.to_json()
    shown = {"Privacy and utility": png["frontier"], "ROC of every attack": png["roc"]}
    report = Report(
        name=config.name,
        rows=rows,
        statements=statements,
        figures=shown,
        exposed=evaluation.exposed,
        config=json.dumps(plain, indent=1),
        versions=versions(),
        utility=config.utility,
        differences=evaluation.differences,
        groups=evaluation.groups,
    )
    write_atomic(folder / "report.html", page(report).encode())
    summary = tables.table(*tables.summary(rows, config.utility))
    write_atomic(folder / "table.md", (summary + "\n").encode())
    view = tensorboard.View(
        settings=ready.settings,
        curves={setting.name: trained.curve(fleet, setting) for setting in ready.settings},
        rows=rows,
        statements={name: lines(statement) for name, statement in statements.items()},
        rocs={name: figures.pixels(figures.roc([roc])) for name, roc in rocs.items()},
        frontier=figures.pixels(drawn["frontier"]),
    )
    with tensorboard.faults():
        tensorboard.rebuild(folder / "tensorboard", view)
    write_atomic(folder / USED, to_json(sorted(map(list, fleet.store.used))))
    write_atomic(folder / METRICS, seal(_record(ready, evaluation, statements, spent)))


def _record(
    ready: Plan,
    evaluation: SweepEvaluation,
    statements: Mapping[str, PrivacyStatement],
    spent: ledger.Snapshot,
) -> dict[str, Any]:
    return {
        "rows": [row.to_json() for row in evaluation.rows],
        "privacy": {name: statement.to_json() for name, statement in statements.items()},
        "exposed": evaluation.exposed,
        "differences": evaluation.differences,
        "thresholds": evaluation.thresholds,
        "groups": [row.to_json() for row in evaluation.groups],
        "config": ready.config.to_json(),
        "versions": versions(),
        "ledger": spent.digest,
        "fingerprint": ready.fingerprint,
        "data": ready.source.digest,
        "outputs": digests(ready.config.folder, OUTPUTS),
    }


def read_result(folder: Path, ready: Plan) -> Result | None:
    """The finished sweep of this very plan in `folder`, or None."""
    try:
        record = unseal((folder / METRICS).read_bytes())
    except (OSError, ValueError):
        return None
    if record.get("fingerprint") != ready.fingerprint:
        return None
    if record.get("outputs") != digests(folder, OUTPUTS):
        return None
    # What was spent since, or what was lost, must be said anew.
    if record.get("ledger") != ledger.read(folder / "store" / "ledger").digest:
        return None
    statements = {name: PrivacyStatement.of(item) for name, item in record["privacy"].items()}
    rows = tuple(Row.of(row) for row in record["rows"])
    groups = tuple(GroupRow.of(row) for row in record["groups"])
    differences = record["differences"]
    return Result(folder, rows, statements, 0, ready.config.utility, differences, groups)
