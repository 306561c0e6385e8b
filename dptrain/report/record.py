"""A finished run as values: all that its page, tables and charts are made of, and the two files it
is read back from, metrics.json and curves.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.core.errors import FolderError, RunError, first_line
from dptrain.core.store import seal, unseal
from dptrain.evaluation.rows import Row
from dptrain.evaluation.subgroups import GroupRow
from dptrain.evaluation.utility import UTILITIES
from dptrain.privacy.pld import TradeOff
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.tables import REFUTED, Differences, refuted

MARK = ".dptrain"
"""A file in folders whose other files dptrain wrote, and may delete."""
METRICS, CURVES = "metrics.json", "curves.json"
RUNS = "runs"
"""In the configuration of a comparison: those of its runs, by name."""
Point = Mapping[str, float | None]
"""A point of a training curve."""
Curve = tuple[np.ndarray, np.ndarray]
"""False and true positive rates, rising."""
POINTS = 600
"""Of a ROC that are left: more than a chart can show."""


@dataclass(frozen=True)
class Roc:
    """The ROC of one setting: attack to (fpr, tpr) over all targets together, the proved bound, and
    the non-members behind it.
    """

    setting: str
    curves: Mapping[str, Curve]
    bound: Curve | None
    n_out: int

    @property
    def edge(self) -> float:
        """The least FPR that the non-members resolve: 10 of them."""
        return min(10 / self.n_out, 0.1)

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "curves": {name: _plain(curve) for name, curve in self.curves.items()},
            "bound": None if self.bound is None else _plain(self.bound),
            "n_out": self.n_out,
        }

    @staticmethod
    def of(record: Mapping[str, Any]) -> Roc:
        """The inverse of to_json."""
        curves = {name: _curve(curve) for name, curve in record["curves"].items()}
        bound = None if record["bound"] is None else _curve(record["bound"])
        return Roc(record["setting"], curves, bound, record["n_out"])


def roc_of(setting: str, curves: Mapping[str, Curve], bound: TradeOff | None, n_out: int) -> Roc:
    """The ROC of a setting, with as many points of each curve as a chart can show."""
    roc = Roc(setting, {}, None if bound is None else (bound.fpr, bound.tpr), n_out)
    return replace(roc, curves={name: thinned(curve, roc.edge) for name, curve in curves.items()})


def thinned(curve: Curve, edge: float) -> Curve:
    """Of the tens of thousands of steps of a ROC the last one up to each point of a logarithmic
    grid from `edge`, of which a chart can show every one.
    """
    fpr, tpr = curve
    grid = np.append(0, np.logspace(np.log10(edge), 0, POINTS))
    places = np.unique(np.searchsorted(fpr, grid, side="right") - 1)
    return fpr[places], tpr[places]


def _plain(curve: Curve) -> list[list[float]]:
    return [part.tolist() for part in curve]


def _curve(plain: Sequence[Sequence[float]]) -> Curve:
    fpr, tpr = (np.array(part, dtype=np.float64) for part in plain)
    return fpr, tpr


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run.

    name: its title. rows: every number. statements: setting to what is claimed of it; empty for
    scores of other people's models. exposed: setting to the record of exposed examples. config: the
    configuration as plain values. versions: of all packages. differences: of utilities between
    settings. thresholds: at which the models of each setting decide. groups: numbers by subgroup.
    training: the training curve of each setting, mean over its models. rocs: of each setting.
    classes: accuracy by class. examples: those that a report shows, by place in the pool, as
    data.shown has them. command: that makes it again; empty where it came from a program. remarks:
    what must be known before its numbers are compared.
    """

    name: str
    rows: Sequence[Row]
    statements: Mapping[str, PrivacyStatement] = field(default_factory=dict)
    exposed: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    differences: Differences = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[GroupRow] = ()
    classes: Sequence[GroupRow] = ()
    examples: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    rocs: Sequence[Roc] = ()
    command: str = ""
    remarks: Sequence[str] = ()

    @property
    def utility(self) -> str:
        """What settings are compared by."""
        return str(self.config.get("utility", "accuracy"))

    @property
    def compares(self) -> bool:
        """Whether it is of several runs."""
        return RUNS in self.config

    def config_of(self, setting: str) -> Mapping[str, Any]:
        """The configuration that a setting was trained under, which of several runs is its own."""
        if not self.compares:
            return self.config
        of: Mapping[str, Any] = self.config[RUNS].get(setting.partition("/")[0], {})
        return of

    @property
    def settings(self) -> list[str]:
        """Names of those that have a statement, or that were attacked."""
        return list(self.statements) or list(dict.fromkeys(roc.setting for roc in self.rocs))

    @property
    def marked(self) -> Record:
        """The same, with the names of settings whose claim is refuted marked so."""
        broken = refuted(self.rows)

        def name(setting: str) -> str:
            return f"{setting}{REFUTED}" if setting in broken else setting

        return replace(
            self,
            rows=[replace(row, setting=name(row.setting)) for row in self.rows],
            statements={name(setting): each for setting, each in self.statements.items()},
            rocs=[replace(roc, setting=name(roc.setting)) for roc in self.rocs],
        )

    def metrics(self) -> dict[str, Any]:
        """What stands in metrics.json, without what ties that to other files."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "privacy": {name: statement.to_json() for name, statement in self.statements.items()},
            "exposed": self.exposed,
            "differences": self.differences,
            "thresholds": self.thresholds,
            "groups": [row.to_json() for row in self.groups],
            "classes": [row.to_json() for row in self.classes],
            "config": self.config,
            "versions": self.versions,
            "command": self.command,
            "remarks": list(self.remarks),
            "name": self.name,
        }

    def curves(self) -> bytes:
        """curves.json."""
        rocs = [roc.to_json() for roc in self.rocs]
        return seal({"training": self.training, "rocs": rocs, "examples": self.examples})


def read(folder: Path) -> Record:
    """A finished run. Raises RunError for a folder without one, or with a damaged file."""
    try:
        metrics = unseal((folder / METRICS).read_bytes())
        path = folder / CURVES  # which an earlier version did not write
        drawn = unseal(path.read_bytes()) if path.exists() else {"training": {}, "rocs": []}
        config = metrics.get("config", {})
        statements = metrics.get("privacy", {})
        return Record(
            name=str(metrics.get("name") or config.get("name", folder.name)),
            rows=tuple(Row.of(row) for row in metrics["rows"]),
            statements={name: PrivacyStatement.of(each) for name, each in statements.items()},
            exposed=metrics.get("exposed", {}),
            config=config,
            versions=metrics.get("versions", {}),
            differences=_differences(metrics.get("differences", {})),
            thresholds=metrics.get("thresholds", {}),
            groups=tuple(GroupRow.of(row) for row in metrics.get("groups", [])),
            classes=tuple(GroupRow.of(row) for row in metrics.get("classes", [])),
            examples=drawn.get("examples", {}),
            training=drawn["training"],
            rocs=tuple(Roc.of(roc) for roc in drawn["rocs"]),
            command=metrics.get("command", ""),
            remarks=tuple(metrics.get("remarks", ())),
        )
    except OSError:
        raise RunError(
            f"there is no finished sweep in {folder}; give the folder that holds its {METRICS}"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{folder}/{METRICS} was altered, or is not of this version ({first_line(error)})"
        raise RunError(f"{reason}; run the sweep again, which trains nothing") from None


def _differences(stored: dict[str, Any]) -> Differences:
    """Those of a file; an earlier version wrote those of the accuracy alone."""
    return stored if stored.keys() <= UTILITIES.keys() else {"accuracy": stored}


def made(folder: Path) -> Path:
    """A folder for files of ours alone, marked so. Raises FolderError where it holds others."""
    if any(folder.glob("*")) and not (folder / MARK).exists():
        raise FolderError(f"{folder} holds files that dptrain did not write; move them elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def cleared(folder: Path) -> None:
    """Delete a folder of ours; one without the mark stays."""
    if (folder / MARK).exists():
        shutil.rmtree(folder, ignore_errors=True)
