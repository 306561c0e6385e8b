"""`dptrain attack`: anyone's scores from a file, attacked. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dptrain import attacks
from dptrain.attacks import score_file
from dptrain.attacks.leaks import blind
from dptrain.attacks.scores import Scores
from dptrain.config.commands import AttackConfig
from dptrain.config.keys import named
from dptrain.core.errors import FolderError
from dptrain.core.store import seal, to_json, versions, write_atomic
from dptrain.evaluation.attack_rows import blind_row
from dptrain.evaluation.evaluate import Evaluation, evaluate
from dptrain.evaluation.rows import Row, Subject
from dptrain.privacy import pld
from dptrain.report.charts import figures
from dptrain.report.page import page
from dptrain.report.record import Record, roc_of

if TYPE_CHECKING:
    import pandas as pd

BLIND_SPLITS = 8
"""Targets whose split the blind baseline is run on."""


@dataclass(frozen=True)
class Result:
    """rows: tidy, as those of a sweep; exposed: the record of `vulnerability`; folder: where the
    report lies, if anywhere.
    """

    rows: list[Row]
    exposed: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path | None

    def to_frame(self) -> pd.DataFrame:
        """A line for each number; the columns are those of rows.Row."""
        import pandas as pd

        return pd.DataFrame([row.to_json() for row in self.rows])

    def json(self) -> str:
        return to_json(self.record()).decode()

    def record(self) -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "exposed": self.exposed,
            "config": self.config,
            "versions": versions(),
        }


def evaluate_file(config: AttackConfig, arrays: Mapping[str, np.ndarray] | None = None) -> Result:
    """Run the attacks of a configuration on its file, or on the arrays that such a file would hold.
    Raises ConfigError.
    """
    with named():
        return _evaluate_file(config, arrays)


def _evaluate_file(config: AttackConfig, arrays: Mapping[str, np.ndarray] | None) -> Result:
    attacks.check(config.attacks)
    assert config.scores is not None
    folder = _made(Path(config.output)) if config.output else None
    if arrays is None:
        scores, ids = score_file.read(config.scores)
    else:
        scores, ids = score_file.from_arrays(dict(arrays))
    curve = None if config.claim is None else pld.claimed_trade_off(config.claim, config.delta)
    subject = Subject(config.name, "", config.claim, config.delta, config.claim, curve)
    evaluation = evaluate(subject, scores, config.attacks, config.audits, ids=ids)
    if scores.inputs is not None:
        splits = scores.membership[scores.attacked][:BLIND_SPLITS]
        guesses = [blind(scores.inputs, scores.labels, member) for member in splits]
        evaluation.rows.append(blind_row(np.stack(guesses), splits))
    plain = dataclasses.asdict(config)
    result = Result(evaluation.rows, {config.name: evaluation.exposed}, plain, folder)
    if folder:
        _write(folder, result, subject, evaluation, scores)
    return result


def _made(folder: Path) -> Path:
    """A folder, made if need be. Raises FolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the folder {folder} ({error.strerror}); choose another"
        raise FolderError(message) from None
    return folder


def _write(
    folder: Path, result: Result, subject: Subject, evaluation: Evaluation, scores: Scores
) -> None:
    """The report of a file of scores."""
    n_out = int((~scores.membership[scores.attacked]).sum())
    roc = roc_of(subject.name, evaluation.curves, subject.curve, n_out)
    png = figures.image(figures.roc([roc]), "png")
    record = Record(
        name=subject.name,
        rows=result.rows,
        exposed=result.exposed,
        config=result.config,
        versions=versions(),
        rocs=[roc],
    )
    write_atomic(folder / "roc.png", png)
    write_atomic(folder / "report.html", page(record, {"ROC of every attack": png}).encode())
    write_atomic(folder / "metrics.json", seal(result.record()))
