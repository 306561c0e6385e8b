"""Frozen schemas of the commands that train nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dptrain.schema import MAX_EPSILON, check_audits, check_name, choose, option, positive, require


@dataclass(frozen=True)
class AttackConfig:
    """Of `dptrain attack`: anyone's scores, judged."""

    scores: str | None = option("file of scores, .npz or .csv")
    name: str = option("what the models are called in the result")
    attacks: Mapping[str, Mapping[str, Any]] = option("attacks to run, and their options")
    audits: tuple[str, ...] = option("lower bounds of epsilon: one_run, one_run_fdp, clopper_pearson, gdp, joint_beta")
    delta: float = option("delta of the lower bounds, and of the claim")
    claim: float | None = option("epsilon that is claimed of the models; a measurement above it fails loudly")
    format: str = option("table or json, on standard output")
    output: str | None = option("folder for metrics.json, report.html and roc.png; null for none")

    def __post_init__(self) -> None:
        check_name(self.name)
        require(self.scores is not None, "scores", "give the file, scores=FILE.npz or scores=FILE.csv; see dptrain attack --help")
        require(len(self.attacks) > 0, "attacks", "give at least one, such as [loss,lira]")
        check_audits(self.audits)
        require(0 < self.delta < 1, "delta", f"must lie in (0, 1), got {self.delta:g}")
        require(self.claim is None or 0 < self.claim <= MAX_EPSILON, "claim", f"must lie above 0 and at most {MAX_EPSILON}, or be null")
        choose("format", self.format, ("table", "json"))


@dataclass(frozen=True)
class CalibrateConfig:
    """Of `dptrain calibrate`: a mechanism but for its noise, and one target; or the noise, and what it buys is the answer."""

    epsilon: float | None = option("target: at most this epsilon at delta")
    max_advantage: float | None = option("target: no attack's TPR - FPR above this")
    max_tpr: float | None = option("target: no attack's TPR above this at a FPR of at_fpr")
    at_fpr: float = option("the FPR of max_tpr")
    noise_multiplier: float | None = option("the noise itself, instead of a target")
    n: int | None = option("size of the training set, public")
    batch_size: int | None = option("expected batch size")
    sample_rate: float | None = option("of an example in a step, instead of batch_size and n")
    epochs: float | None = option("expected passes over the training set")
    steps: int | None = option("of the optimiser, instead of epochs")
    delta: float = option("delta of (epsilon, delta); below 1/n")
    sampling: str = option("poisson, or shuffled: a pass in fixed batches, which is accounted without amplification")
    prv_seconds: float = option("seconds to wait for Opacus's PRV accountant, the second opinion; 0 for none")
    format: str = option("table or json, on standard output")

    def __post_init__(self) -> None:
        targets = ("epsilon", "max_advantage", "max_tpr", "noise_multiplier")
        given = [key for key in targets if getattr(self, key) is not None]
        some = f"give exactly one of {', '.join(targets)}, such as epsilon=2; got {' and '.join(given) or 'none'}"
        require(len(given) == 1, (given or ["epsilon"])[-1], some)
        require(
            self.epsilon is None or 0 < self.epsilon <= MAX_EPSILON,
            "epsilon",
            f"must lie above 0 and at most {MAX_EPSILON}, got {self.epsilon}",
        )
        for key in ("max_advantage", "max_tpr", "at_fpr"):
            value = getattr(self, key)
            require(value is None or 0 < value <= 0.99, key, f"must lie above 0 and at most 0.99, got {value}")
        no_better = f"must lie above at_fpr = {self.at_fpr:g}, which guessing reaches, got {self.max_tpr}"
        require(self.max_tpr is None or self.max_tpr > self.at_fpr, "max_tpr", no_better)
        noise = self.noise_multiplier
        require(noise is None or 0.1 <= noise <= 1e4, "noise_multiplier", f"must lie in [0.1, 1e4], got {noise}")
        require((self.sample_rate is None) != (self.batch_size is None), "batch_size", "give batch_size and n, or sample_rate")
        require(self.sample_rate is None or 0 < self.sample_rate <= 1, "sample_rate", f"must lie in (0, 1], got {self.sample_rate}")
        require(self.n is None or self.n >= 1, "n", f"must be at least 1, got {self.n}")
        if self.batch_size is not None:
            require(self.n is not None, "n", "is needed with batch_size; or give sample_rate")
            require(1 <= self.batch_size <= (self.n or 0), "batch_size", f"must lie in 1..n = {self.n}, got {self.batch_size}")
        require((self.epochs is None) != (self.steps is None), "epochs", "give epochs or steps, one of them")
        if self.epochs is not None:
            positive(self.epochs, "epochs")
        require(self.rate >= Fraction(1, 10**8), "sample_rate", f"must be at least 1e-8, got {float(self.rate):.3g}")
        require(1 <= self.planned_steps <= 10**6, "steps", f"must lie in 1..10^6, got {self.planned_steps}")
        require(1e-30 <= self.delta <= 0.1, "delta", f"must lie in [1e-30, 0.1], got {self.delta:g}")
        known = self.n is not None and self.delta * self.n >= 1
        require(not known, "delta", f"must lie below 1/n = {1 / (self.n or 1):.3g}, got {self.delta:g}")
        require(0 <= self.prv_seconds <= 3600, "prv_seconds", f"must lie in [0, 3600], got {self.prv_seconds:g}")
        choose("sampling", self.sampling, ("poisson", "shuffled"))
        choose("format", self.format, ("table", "json"))

    @property
    def rate(self) -> Fraction:
        """q, exactly: a decimal is taken at its word."""
        return Fraction(str(self.sample_rate)) if self.batch_size is None else Fraction(self.batch_size, self.n)

    @property
    def planned_steps(self) -> int:
        return self.steps if self.steps is not None else math.ceil(Fraction(str(self.epochs)) / self.rate)


@dataclass(frozen=True)
class AdviseConfig:
    """Of `dptrain advise`: a finished sweep, and what is asked of a setting."""

    run: str | None = option("folder of a finished sweep")
    max_tpr_at_1pct_fpr: float | None = option("the strongest attack finds at most this share of members at 1 % false alarms")
    max_auc: float | None = option("the strongest attack's AUC is at most this")
    max_advantage: float | None = option("the strongest attack's TPR - FPR is at most this")
    min_accuracy: float | None = option("test accuracy is at least this")
    max_epsilon: float | None = option("epsilon is proved to be at most this")
    format: str = option("table or json, on standard output")

    def __post_init__(self) -> None:
        require(self.run is not None, "run", "give the folder of a finished sweep, such as run=results/quickstart")
        for key in ("max_tpr_at_1pct_fpr", "max_auc", "max_advantage", "min_accuracy"):
            value = getattr(self, key)
            require(value is None or 0 < value < 1, key, f"must lie in (0, 1), got {value}")
        require(self.max_epsilon is None or self.max_epsilon > 0, "max_epsilon", f"must be above 0, got {self.max_epsilon}")
        choose("format", self.format, ("table", "json"))
