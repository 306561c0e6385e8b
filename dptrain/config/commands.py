"""Frozen schemas of the commands that train nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from dptrain.config.fields import FINITE, check_fields, check_name, option, require
from dptrain.config.schema import (
    AUDITS,
    MAX_EPSILON,
    UTILITIES,
    Config,
    DatasetConfig,
    check_batch,
)
from dptrain.core.types import Rows, Sampling

EXPORTS = ("csv", "json", "parquet", "latex", "svg", "pdf", "mlflow", "wandb")
"""Formats in which a run is written for other tools."""


class Format(StrEnum):
    """Of what a command prints on standard output."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True)
class AttackConfig:
    """Of `dptrain attack`: anyone's scores, attacked."""

    scores: str | None = option("file of scores, .npz or .csv")
    name: str = option("what the models are called in the result")
    attacks: Mapping[str, Mapping[str, Any]] = option("attacks to run, and their options")
    audits: tuple[str, ...] = option(
        "lower bounds of epsilon: one_run, one_run_fdp, clopper_pearson, gdp, joint_beta",
        choices=AUDITS,
        unique=True,
    )
    delta: float = option("delta of the lower bounds, and of the claim", above=0.0, below=1.0)
    claim: float | None = option(
        "epsilon that is claimed of the models; a measurement above it fails loudly",
        above=0.0,
        most=MAX_EPSILON,
    )
    format: Format = option("table or json, on standard output")
    output: str | None = option("folder for metrics.json, report.html and roc.png; null for none")

    def __post_init__(self) -> None:
        check_name(self.name)
        given = "give the file, scores=FILE.npz or scores=FILE.csv; see dptrain attack --help"
        require(self.scores is not None, "scores", given)
        require(len(self.attacks) > 0, "attacks", "give at least one, such as [loss,lira]")
        check_fields(self)


TARGETS = ("epsilon", "max_advantage", "max_tpr", "noise_multiplier")


class Law(StrEnum):
    """Of a random number of trials (Papernot and Steinke 2022)."""

    GEOMETRIC = "geometric"
    POISSON = "poisson"
    LOGARITHMIC = "logarithmic"


@dataclass(frozen=True)
class CalibrateConfig:
    """Of `dptrain calibrate`: a mechanism but for its noise, and one target; or the noise, and what
    it buys is the answer.
    """

    epsilon: float | None = option(
        "target: at most this epsilon at delta", above=0.0, most=MAX_EPSILON
    )
    max_advantage: float | None = option(
        "target: no attack's TPR - FPR above this", above=0.0, most=0.99
    )
    max_tpr: float | None = option(
        "target: no attack's TPR above this at a FPR of at_fpr", above=0.0, most=0.99
    )
    at_fpr: float = option("the FPR of max_tpr", above=0.0, most=0.99)
    noise_multiplier: float | None = option(
        "the noise itself, instead of a target", least=0.1, most=1e4
    )
    n: int | None = option("size of the training set, public", least=1)
    batch_size: int | None = option("expected batch size", least=1)
    sample_rate: float | None = option(
        "of an example in a step, instead of batch_size and n", above=0.0, most=1.0
    )
    epochs: float | None = option("expected passes over the training set", above=0, below=FINITE)
    steps: int | None = option("of the optimiser, instead of epochs", least=1)
    delta: float = option("delta of (epsilon, delta); below 1/n", least=1e-30, most=0.1)
    sampling: Sampling = option(
        "poisson, or shuffled: a pass in fixed batches, which is accounted without amplification"
    )
    trials: float | None = option(
        "mean of a random number of trainings of which the best is given away; epsilon is then its",
        least=1.0,
        most=1e6,
    )
    trials_law: Law = option("of their number: geometric, poisson or logarithmic")
    prv_seconds: float = option(
        "seconds to wait for Opacus's PRV accountant, the second opinion; 0 for none",
        least=0.0,
        most=3600.0,
    )
    format: Format = option("table or json, on standard output")

    def __post_init__(self) -> None:
        given = [key for key in TARGETS if getattr(self, key) is not None]
        wanted = f"give exactly one of {', '.join(TARGETS)}, such as epsilon=2"
        names = " and ".join(given) or "none"
        require(len(given) == 1, (given or ["epsilon"])[-1], f"{wanted}; got {names}")
        check_fields(self)
        alone = "max_advantage and max_tpr are of a model by itself; give epsilon instead"
        priced = self.max_advantage is None and self.max_tpr is None
        require(self.trials is None or priced, "trials", alone)
        no_better = f"must lie above at_fpr = {self.at_fpr:g}, which guessing reaches"
        fits = self.max_tpr is None or self.max_tpr > self.at_fpr
        require(fits, "max_tpr", f"{no_better}, got {self.max_tpr}")
        self._check_size()
        rate, steps = float(self.rate), self.planned_steps
        require(rate >= 1e-8, "sample_rate", f"must be at least 1e-8, got {rate:.3g}")
        require(1 <= steps <= 10**6, "steps", f"must lie in 1..10^6, got {steps}")
        if self.n is not None:
            limit = f"must lie below 1/n = {1 / self.n:.3g}, got {self.delta:g}"
            require(self.delta * self.n < 1, "delta", limit)

    def _check_size(self) -> None:
        either = (self.sample_rate is None) != (self.batch_size is None)
        require(either, "batch_size", "give batch_size and n, or sample_rate")
        if self.batch_size is not None:
            require(self.n is not None, "n", "is needed with batch_size; or give sample_rate")
            limit = f"must lie in 1..n = {self.n}, got {self.batch_size}"
            require(self.batch_size <= (self.n or 0), "batch_size", limit)
        passes = (self.epochs is None) != (self.steps is None)
        require(passes, "epochs", "give either epochs or steps")

    @property
    def rate(self) -> Fraction:
        """q, exactly: a decimal is taken at its word."""
        if self.batch_size is None:
            return Fraction(str(self.sample_rate))
        return Fraction(self.batch_size, self.n)

    @property
    def planned_steps(self) -> int:
        if self.steps is not None:
            return self.steps
        return math.ceil(Fraction(str(self.epochs)) / self.rate)


@dataclass(frozen=True)
class AdviseConfig:
    """Of `dptrain advise`: a finished sweep, and what is asked of a setting."""

    run: str | None = option("folder of a finished sweep")
    max_tpr_at_1pct_fpr: float | None = option(
        "the strongest attack finds at most this share of members at 1 % false alarms",
        above=0.0,
        below=1.0,
    )
    max_auc: float | None = option(
        "the strongest attack's AUC is at most this", above=0.0, below=1.0
    )
    max_advantage: float | None = option(
        "the strongest attack's TPR - FPR is at most this", above=0.0, below=1.0
    )
    min_accuracy: float | None = option("test accuracy is at least this", above=0.0, below=1.0)
    utility: str | None = option(
        "what settings are compared by; null: that of the sweep", choices=UTILITIES
    )
    min_utility: float | None = option(
        "the utility on the test set is at least this", above=0.0, below=1.0
    )
    max_loss: float | None = option(
        "a utility of which less is better is at most this", above=0.0, below=FINITE
    )
    max_epsilon: float | None = option("epsilon is proved to be at most this", above=0)
    where: str | None = option(
        "demands on any number, of all or of canaries, rows or a group: "
        "'accuracy >= 0.8 of sex=Female, tpr_at_fpr_0.001 <= 0.01'"
    )
    format: Format = option("table or json, on standard output")

    def __post_init__(self) -> None:
        given = "give the folder of a finished sweep, such as run=results/quickstart"
        require(self.run is not None, "run", given)
        check_fields(self)


@dataclass(frozen=True)
class InspectConfig:
    """Of `dptrain inspect`: a table."""

    dataset: DatasetConfig = option("the table, and what is said of its columns")
    seed: int = option("of the split whose population is looked at", least=0)
    output: str | None = option("YAML file to write, for dataset.schema; null for none")
    format: Format = option("table or json, on standard output")

    def __post_init__(self) -> None:
        check_fields(self)


class Action(StrEnum):
    """Of `dptrain store`."""

    LIST = "list"
    VERIFY = "verify"
    PRUNE = "prune"


@dataclass(frozen=True)
class RunConfig:
    """Of `dptrain show`: a finished sweep."""

    run: str | None = option("folder of a finished sweep")

    def __post_init__(self) -> None:
        given = "give the folder of a finished sweep, such as run=results/quickstart"
        require(self.run is not None, "run", given)
        check_fields(self)


@dataclass(frozen=True)
class ReportConfig:
    """Of `dptrain report`: finished sweeps, and what is written of them."""

    run: str | None = option("folder of a finished sweep, or of dptrain train")
    runs: tuple[str, ...] = option("folders of several, which are shown side by side")
    output: str | None = option("folder for several; null: results/comparison")
    export: tuple[str, ...] = option(f"any of {', '.join(EXPORTS)}, for other tools")
    compliance: bool = option(
        "also the hazards of NIST SP 800-226 answered, model cards, and entries of OpenDP's "
        "registry"
    )

    def __post_init__(self) -> None:
        given = "give the folder of a finished sweep, such as run=results/quickstart"
        require((self.run is None) == bool(self.runs), "run", f"{given}, or several as runs=[A,B]")
        fix = "is of one run; give run=FOLDER"
        require(not (self.compliance and self.runs), "compliance", fix)
        require(self.output is None or bool(self.runs), "output", "is of runs=[A,B]; leave it out")
        unknown = [name for name in self.export if name not in EXPORTS]
        known = f"choose from {', '.join(EXPORTS)}, got {', '.join(unknown)}"
        require(not unknown, "export", known)
        check_fields(self)

    @property
    def folder(self) -> Path:
        """Where it is written."""
        return Path(self.run or self.output or "results/comparison")


@dataclass(frozen=True)
class TensorboardConfig(RunConfig):
    """Of `dptrain tensorboard`: a finished sweep, and where it is served."""

    host: str = option("address to listen at; localhost is for this machine alone")
    port: int = option("port to listen at; 0 for any", least=0, most=65535)


@dataclass(frozen=True)
class StoreConfig:
    """Of `dptrain store`: the artefacts of a run."""

    run: str | None = option("folder of a sweep")
    action: Action = option(
        "list; verify: read every byte; prune: delete what the last finished sweep did not use"
    )
    format: Format = option("table or json, on standard output")

    def __post_init__(self) -> None:
        given = "give the folder of a sweep, such as run=results/quickstart"
        require(self.run is not None, "run", given)
        check_fields(self)


@dataclass(frozen=True)
class WholeConfig(Config):
    """A sweep's configuration, of whose settings one model is trained on all rows."""

    rows: Rows = option(
        "what it learns from: pool, pool_and_test, or all, which leaves none for an attacker"
    )

    def _check_sizes(self) -> None:
        if self.dataset.known:
            check_batch(self)

    @property
    def public_n(self) -> int:
        """The declared number of examples of the training set: all candidates."""
        return self.dataset.unit_count or self.pool

    @property
    def public_users(self) -> int:
        return self.pool


@dataclass(frozen=True)
class TrainConfig(WholeConfig):
    """Of `dptrain train`: one setting, of a finished sweep or of this configuration."""

    run: str | None = option("folder of a finished sweep, whose configuration is taken; null: none")
    setting: str | None = option("of the sweep, such as dpsgd-2; its only one may be left out")

    @property
    def folder(self) -> Path:
        """Where the model is trained, `release/SETTING` of a sweep by default."""
        of_sweep = Path(self.run) if self.run else Path("results") / self.name
        default = of_sweep / "release" / (self.setting or "model")
        return Path(self.output) if self.output else default


@dataclass(frozen=True)
class TuneConfig(WholeConfig):
    """Of `dptrain tune`: one candidate, and how many trials there are in the mean."""

    epsilon: float | None = option(
        "of the model that is chosen, training and choice together", above=0.0, most=MAX_EPSILON
    )
    trials: float = option("mean of the random number of trials", least=1.0, most=1e4)
    trials_law: Law = option("of their number: geometric, poisson or logarithmic")

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "a chosen model is not audited; use 0, and dptrain train for an audit"
        require(self.dataset.canaries == 0, "dataset.canaries", fix)
        fix = "the best is chosen on the population; use pool or pool_and_test"
        require(self.rows != Rows.ALL, "rows", fix)

    @property
    def folder(self) -> Path:
        """Where the models are trained, `tuned` in the folder of a sweep by default."""
        return Path(self.output) if self.output else Path("results") / self.name / "tuned"


@dataclass(frozen=True)
class ExportConfig:
    """Of `dptrain export`: a model that a sweep trained."""

    run: str | None = option("folder of a finished sweep")
    setting: str | None = option("of the sweep, such as dpsgd-2")
    model: int = option("which of the setting's models, from 0", least=0)
    path: str | None = option("file or folder of the run's data, if it was moved; null: as it was")
    output: str | None = option("folder to write; null: export/SETTING-MODEL in the run's folder")

    def __post_init__(self) -> None:
        given = "give the folder of a finished sweep, such as run=results/quickstart"
        require(self.run is not None, "run", given)
        require(self.setting is not None, "setting", "give a setting of the sweep")
        check_fields(self)


@dataclass(frozen=True)
class ReproduceConfig:
    """Of `dptrain reproduce`: a published result, repeated."""

    paper: str | None = option("name of a preset; null: list them")
    output: str | None = option("folder for results; null: results/papers/<paper>")
    shrunk: bool = option("a form of seconds, to see that it runs; its numbers mean nothing")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PredictConfig:
    """Of `dptrain predict`: an exported model, and new data."""

    model: str | None = option("folder of an exported model")
    data: str | None = option(
        "table (.csv, .csv.gz, .xlsx, .parquet), or .npz with inputs [N, ...]"
    )
    output: str | None = option("CSV file to write; null: standard output")

    def __post_init__(self) -> None:
        folder = "give the folder that dptrain train or dptrain export wrote"
        require(self.model is not None, "model", folder)
        require(self.data is not None, "data", "give new rows, such as data=new.csv")
        check_fields(self)
