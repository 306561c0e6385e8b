"""`dptrain attack`: anyone's scores from a file, judged. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dptrain import accounting, attacks, judge, plots, report, scorefile
from dptrain.assess import assess
from dptrain.attacks.blind import blind
from dptrain.commands import AttackConfig
from dptrain.judge import Row, Subject
from dptrain.store import seal, to_json, versions, write_atomic
from dptrain.types import ConfigError

BLIND_SPLITS = 8
"""Targets whose split the blind baseline is run on."""


@dataclass(frozen=True)
class Result:
    """rows: tidy, as those of a sweep; exposed: the record of `exposure`; folder: where the report lies, if anywhere."""

    rows: list[Row]
    exposed: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path | None

    def to_frame(self) -> pd.DataFrame:
        """A line for each number; the columns are those of judge.Row."""
        return pd.DataFrame([row.to_json() for row in self.rows])

    def json(self) -> str:
        return to_json(self.record()).decode()

    def record(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"rows": rows, "exposed": self.exposed, "config": self.config, "versions": versions()}


def judge_file(config: AttackConfig, arrays: Mapping[str, np.ndarray] | None = None) -> Result:
    """Run the attacks of a configuration on its file, or on the arrays that such a file would hold. Raises ConfigError."""
    attacks.check(config.attacks)
    assert config.scores is not None
    folder = Path(config.output) if config.output else None
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("output", f"cannot make the folder {folder} ({error.strerror}); choose another") from None
    scores, ids = scorefile.read(config.scores) if arrays is None else scorefile.from_arrays(dict(arrays))
    curve = None if config.claim is None else accounting.claimed_trade_off(config.claim, config.delta)
    subject = Subject(config.name, "", config.claim, config.delta, config.claim, curve)
    found = assess(subject, scores, config.attacks, config.audits, ids=ids)
    rows = found.rows
    if scores.inputs is not None:
        splits = scores.membership[scores.attacked][:BLIND_SPLITS]
        rows.append(judge.blind_row(np.stack([blind(scores.inputs, scores.labels, member) for member in splits]), splits))
    plain = dataclasses.asdict(config)
    result = Result(rows, {config.name: found.exposed}, plain, folder)
    if result.folder:
        curves = [plots.Roc(config.name, found.curves, curve, int((~scores.membership[scores.attacked]).sum()))]
        png = report.image(plots.roc(curves), "png")
        text = json.dumps(plain, indent=1)
        page = report.page(config.name, rows, {}, {"ROC of every attack": png}, result.exposed, text, versions())
        write_atomic(result.folder / "roc.png", png)
        write_atomic(result.folder / "report.html", page.encode())
        write_atomic(result.folder / "metrics.json", seal(result.record()))
    return result
