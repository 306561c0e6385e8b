"""What a finished sweep leaves in its folder, and how it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dptrain.config.commands import ReportConfig
from dptrain.core.errors import FolderError
from dptrain.core.guard import only_writer
from dptrain.core.store import digests, seal, to_json, unseal, versions, write_atomic
from dptrain.data import splits
from dptrain.data.shown import Shown, shown
from dptrain.evaluation.rows import Row
from dptrain.evaluation.subgroups import GroupRow
from dptrain.evaluation.vulnerability import standing_out
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.spending import so_far
from dptrain.pipeline.evaluation import SweepEvaluation
from dptrain.pipeline.plan import Plan
from dptrain.privacy import ledger
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.comparison import merged
from dptrain.report.compliance.write import compliance
from dptrain.report.exports.files import export
from dptrain.report.record import CURVES, METRICS, Record, cleared, read
from dptrain.report.render import FILES, render

if TYPE_CHECKING:
    import pandas as pd

USED = "artefacts.json"
"""Stage and key of every artefact that the sweep read or wrote."""
OUTPUTS = (*FILES, CURVES, USED)
MADE_ON_REQUEST = ("exports", "compliance")
"""Folders that `dptrain report` makes of one result, and that another must not stand beside."""


@dataclass(frozen=True)
class Result:
    """A finished sweep: its folder, its numbers, and how many models this very call trained."""

    folder: Path
    record: Record
    trained: int

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(self.record.rows)

    @property
    def statements(self) -> Mapping[str, PrivacyStatement]:
        """Of each setting."""
        return self.record.statements

    @property
    def groups(self) -> tuple[GroupRow, ...]:
        return tuple(self.record.groups)

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
    command: str = "",
) -> Record:
    """Chart files, page, TensorBoard, and last metrics.json, whose fingerprint says that all of
    them are there.
    """
    folder = ready.config.folder
    record = Record(
        name=ready.config.name,
        rows=evaluation.rows,
        statements=statements,
        exposed=evaluation.exposed,
        config=ready.config.to_json(),
        versions=versions(),
        differences=evaluation.differences,
        thresholds=evaluation.thresholds,
        groups=evaluation.groups,
        classes=evaluation.classes,
        examples=_shown(ready, fleet, evaluation),
        training={
            setting.name: [
                {**point, "epsilon": so_far(setting, int(point["step"] or 0))}
                for point in trained.curve(fleet, setting)
            ]
            for setting in ready.settings
        },
        rocs=evaluation.curves,
        command=command,
    )
    write_atomic(folder / CURVES, record.curves())
    for stale in MADE_ON_REQUEST:  # of the numbers before
        cleared(folder / stale)
    render(folder, record)
    write_atomic(folder / USED, to_json(sorted(map(list, fleet.store.used))))
    ties = {
        "ledger": spent.digest,
        "fingerprint": ready.fingerprint,
        "data": ready.source.digest,
        "outputs": digests(folder, OUTPUTS),
    }
    write_atomic(folder / METRICS, seal({**record.metrics(), **ties}))
    return record


def _shown(ready: Plan, fleet: Fleet, evaluation: SweepEvaluation) -> dict[str, Shown]:
    """The most exposed examples by place, which is text in JSON; none unless it is asked for."""
    if not ready.config.show_examples or fleet.users is not None:
        return {}
    places = {
        example["place"]
        for of_setting in evaluation.exposed.values()
        for example in standing_out(of_setting)
    }
    rows, _, _ = splits.parts(ready.config.dataset, ready.config.seed, ready.source)
    drawn = shown(ready.source, fleet.dataset, rows, sorted(places))
    return {str(place): each for place, each in drawn.items()}


def report(config: ReportConfig) -> list[Path]:
    """Write page, charts and TensorBoard of a finished sweep anew, or of several side by side, and
    what else is asked for; the folders beside the page. Raises RunError, and FolderError where
    other files lie in the place of a comparison.
    """
    folder, together = config.folder, None
    if config.runs:
        together = merged([Path(run) for run in config.runs])
        _require_comparison(folder)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        read(folder)  # a folder without a run gets no lock
    with only_writer(folder):  # so that no sweep ends between reading and writing
        record = together or read(folder)
        write_atomic(folder / CURVES, record.curves())
        render(folder, record)
        if together is None:
            _tie_again(folder)
        else:
            write_atomic(folder / METRICS, seal(record.metrics()))
        written = export(folder, record, config.export)
        return [*written, *([compliance(folder, record)] if config.compliance else [])]


def _require_comparison(folder: Path) -> None:
    """Raise FolderError for a folder with files that are not those of a comparison."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        ties = unseal((folder / METRICS).read_bytes())
    except (OSError, ValueError):
        ties = {}
    if "fingerprint" in ties or not ties.get("remarks"):
        raise FolderError(f"{folder} holds other files; choose another folder")


def _tie_again(folder: Path) -> None:
    """Say in a sweep's metrics.json what its files are now."""
    ties = unseal((folder / METRICS).read_bytes())
    if "outputs" in ties:  # not of a model that is given away
        ties["outputs"] = digests(folder, OUTPUTS)
        write_atomic(folder / METRICS, seal(ties))


def read_result(folder: Path, ready: Plan) -> Result | None:
    """The finished sweep of this very plan in `folder`, or None."""
    try:
        ties = unseal((folder / METRICS).read_bytes())
    except (OSError, ValueError):
        return None
    if ties.get("fingerprint") != ready.fingerprint:
        return None
    if ties.get("outputs") != digests(folder, OUTPUTS):
        return None
    # What was spent since, or what was lost, must be said anew.
    if ties.get("ledger") != ledger.read(folder / "store" / "ledger").digest:
        return None
    return Result(folder, read(folder), 0)
