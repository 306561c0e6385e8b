"""Utility of the models of a setting: how well they predict the test set, in the measures that
teams use, and how two settings differ.

M models, T examples, C classes. Of two classes the second is the positive one. Every measure is a
function of the weights of the examples, [R, T] to [R], so that the jackknife behind an interval
costs no second sort; with weights of 1 it equals scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dptrain.core.types import Interval
from dptrain.evaluation import intervals, metrics
from dptrain.evaluation.rankings import Ranking
from dptrain.evaluation.rows import TRAIN_ACCURACY, Kind, Metric, Row, Subject

BINS = 15
"""Of confidence, for the calibration error (Guo et al. 2017, section 2)."""
LEAST_PROBABILITY = float(np.finfo(np.float64).eps)
"""A probability below it counts as so much in the log loss, which is else infinite."""
FEW = 50
"""Examples of a class below which the jackknife is too sure of what every class weighs in: the
interval then holds that of Clopper and Pearson over so many trials.
"""
ROUNDING = 1e-9
"""A narrower interval is one of rounding: nothing varied, which is no certainty."""
CONSTANT = "constant prediction"
"""What gives every example the class frequencies of the population: what a model has to beat."""


@dataclass(frozen=True)
class Predictions:
    """What one model says of T examples: log_posterior [T, C], the label of each [T], the class
    that the model decides for [T], and the log-odds from which on it decides for the second of two
    classes; None where it decides for the highest posterior.
    """

    log_posterior: np.ndarray
    labels: np.ndarray
    decided: np.ndarray
    threshold: float | None = None

    @staticmethod
    def of(
        log_posterior: Float[np.ndarray, "T C"],
        labels: Int[np.ndarray, " T"],
        threshold: float | None = None,
    ) -> Predictions:
        if threshold is None:
            decided = log_posterior.argmax(axis=1)
        else:
            decided = (log_odds(log_posterior) >= threshold).astype(np.int64)
        return Predictions(log_posterior, labels, decided, threshold)

    @cached_property
    def posterior(self) -> np.ndarray:
        values: np.ndarray = np.exp(self.log_posterior)
        return values

    @cached_property
    def right(self) -> np.ndarray:
        flags: np.ndarray = self.decided == self.labels
        return flags

    @cached_property
    def is_class(self) -> np.ndarray:
        """bool [C, T]: the examples of each class."""
        classes = np.arange(self.log_posterior.shape[1])
        flags: np.ndarray = self.labels == classes[:, None]
        return flags

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The examples by the posterior of each class, those of the class being the members; of two
        classes of the second alone.
        """
        classes = self.log_posterior.shape[1]
        if classes == 2:  # a posterior next to 1 has no digits left to rank by
            return [Ranking.of(log_odds(self.log_posterior), self.is_class[1])]
        columns = zip(self.log_posterior.T, self.is_class, strict=True)
        return [Ranking.of(scores, is_class) for scores, is_class in columns]


@dataclass(frozen=True)
class Estimates:
    """What one model of a regression says of T examples: values [T], the targets [T]; both in the
    user's units.
    """

    values: np.ndarray
    targets: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        result: np.ndarray = self.values - self.targets
        return result


Answers = Predictions | Estimates
Measured = Callable[[np.ndarray], np.ndarray]
"""Weights of the examples [R, T] -> the measure in each resample [R]; nan where it has none."""


def _mean(each: Float[np.ndarray, " T"] | Bool[np.ndarray, " T"]) -> Measured:
    """Of what an example has by itself."""
    return lambda weights: _ratio(weights @ each, weights.sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _over_classes(values: Float[np.ndarray, "R C"]) -> np.ndarray:
    """The mean over the classes that have a value; nan where none has."""
    there = np.isfinite(values)
    return _ratio(np.where(there, values, 0).sum(axis=1), there.sum(axis=1))


def _accuracy(model: Predictions) -> Measured:
    return _mean(model.right)


def _balanced_accuracy(model: Predictions) -> Measured:
    """The mean recall of the classes that have examples."""
    of_class = model.is_class.T.astype(float)
    right = of_class * model.right[:, None]
    return lambda weights: _over_classes(_ratio(weights @ right, weights @ of_class))


def _macro_f1(model: Predictions) -> Measured:
    """The mean over classes of 2 TP / (actual + decided), over those that have either."""
    of_class = model.is_class.T.astype(float)
    decided = (model.decided[:, None] == np.arange(of_class.shape[1])).astype(float)

    def of(weights: Float[np.ndarray, "R T"]) -> np.ndarray:
        either = weights @ of_class + weights @ decided
        return _over_classes(_ratio(2 * (weights @ (of_class * decided)), either))

    return of


def _auroc(model: Predictions) -> Measured:
    """Area under the ROC; of more than two classes the mean of each against the rest."""

    def of(weights: Float[np.ndarray, "R T"]) -> np.ndarray:
        whole = bool(((weights == 0) | (weights == 1)).all())
        areas = [
            ranking.auc_of(weights > 0) if whole else ranking.auc(weights)
            for ranking in model.rankings
        ]
        return _over_classes(np.stack(areas, axis=1))

    return of


def _auprc(model: Predictions) -> Measured:
    """Average precision; of more than two classes the mean of each against the rest."""

    def of(weights: Float[np.ndarray, "R T"]) -> np.ndarray:
        areas = [ranking.average_precision(weights) for ranking in model.rankings]
        return _over_classes(np.stack(areas, axis=1))

    return of


def _log_loss(model: Predictions) -> Measured:
    """-log of the posterior of the true class."""
    true = model.posterior[np.arange(len(model.labels)), model.labels]
    return _mean(-np.log(np.clip(true, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)))


def _brier(model: Predictions) -> Measured:
    """Squared distance of the posterior from the label, summed over classes; of two classes that of
    the second alone (Brier 1950).
    """
    distance = np.square(model.posterior - model.is_class.T)
    return _mean(distance[:, 1] if distance.shape[1] == 2 else distance.sum(axis=1))


def _calibration_error(model: Predictions) -> Measured:
    """|accuracy - confidence| of the most likely class, in BINS bins of equal width, weighted by
    their examples (Guo et al. 2017, equation 3).
    """
    confidence = model.posterior.max(axis=1)
    right = model.log_posterior.argmax(axis=1) == model.labels
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    of_bin = (number[:, None] == np.arange(BINS)) * (right - confidence)[:, None]
    return lambda weights: _ratio(np.abs(weights @ of_bin).sum(axis=1), weights.sum(axis=1))


def _rmse(model: Estimates) -> Measured:
    """Root of the mean squared error."""
    squared = _mean(np.square(model.errors))
    return lambda weights: np.sqrt(squared(weights))


def _mae(model: Estimates) -> Measured:
    """Mean absolute error."""
    return _mean(np.abs(model.errors))


def _r2(model: Estimates) -> Measured:
    """1 less the squared error over that of the mean of these targets."""
    squared, centred = np.square(model.errors), model.targets - model.targets.mean()

    def of(weights: Float[np.ndarray, "R T"]) -> np.ndarray:
        total = weights.sum(axis=1)
        spread = weights @ np.square(centred) - np.square(weights @ centred) / np.maximum(total, 1)
        return 1 - _ratio(weights @ squared, np.where(spread > 0, spread, np.nan))

    return of


@dataclass(frozen=True)
class Utility:
    """A measure of predictions, or of the numbers of a regression. higher: whether more is better;
    rate: whether it is a share of the examples; by_class: whether every class weighs alike, however
    few examples it has; decided: whether it is of decisions, and not of posteriors.
    """

    title: str
    of: Callable[[Any], Measured]
    bounds: tuple[float, float] = (0.0, 1.0)
    higher: bool = True
    rate: bool = False
    by_class: bool = False
    decided: bool = False
    regression: bool = False


UTILITIES: dict[str, Utility] = {
    "accuracy": Utility("accuracy", _accuracy, rate=True, decided=True),
    "balanced_accuracy": Utility(
        "balanced accuracy", _balanced_accuracy, by_class=True, decided=True
    ),
    "macro_f1": Utility("macro F1", _macro_f1, by_class=True, decided=True),
    "auroc": Utility("AUROC", _auroc, by_class=True),
    "auprc": Utility("AUPRC", _auprc, by_class=True),
    "log_loss": Utility("log loss", _log_loss, (0.0, -np.log(LEAST_PROBABILITY)), higher=False),
    "brier": Utility("Brier score", _brier, (0.0, 2.0), higher=False),
    "calibration_error": Utility("calibration error", _calibration_error, higher=False),
    "rmse": Utility("RMSE", _rmse, (0.0, np.inf), higher=False, regression=True),
    "mae": Utility("MAE", _mae, (0.0, np.inf), higher=False, regression=True),
    "r2": Utility("R2", _r2, (-np.inf, 1.0), regression=True),
}

Resamples = Mapping[str, np.ndarray]
"""By utility: each model's value on all of the test set, and without each block of it,
[1 + blocks, M].
"""


def metric_of(name: str) -> Metric:
    """The metric of a utility on the test set."""
    return Metric(Kind(f"test_{name}"))


def resamples(models: Iterable[Answers], users: Int[np.ndarray, " T"] | None = None) -> Resamples:
    """Every utility of some models on one test set. What a model says is held no longer than it
    takes to measure it. users: whose each example is, where several are of one.
    """
    measured: dict[str, list[np.ndarray]] = {}
    for model in models:
        numbers = isinstance(model, Estimates)
        examples = len(model.targets if isinstance(model, Estimates) else model.labels)
        weights = np.concatenate([np.ones((1, examples)), intervals.leave_out(examples, users)])
        for name, utility in UTILITIES.items():
            if utility.regression == numbers:
                measured.setdefault(name, []).append(utility.of(model)(weights))
    return {name: np.stack(values, axis=1) for name, values in measured.items()}


def utility_rows(
    subject: Subject,
    measured: Resamples,
    counts: Int[np.ndarray, " C"],
    fixed: bool = False,
    note: str = "",
) -> list[Row]:
    """A row for each utility, of all models on one test set.

    Args:
        subject: whose models they are.
        measured: their utilities.
        counts: examples of each class in the test set, [C].
        fixed: whether it is CONSTANT, which no training varies.
        note: how the models decide, for the measures of decisions.
    """
    examples, models = int(counts.sum()), next(iter(measured.values())).shape[1]
    lacking = int((counts == 0).sum())
    rows = []
    for name, values in measured.items():
        utility, metric = UTILITIES[name], metric_of(name)
        if not np.isfinite(values[0]).all():
            reason = "the test set has too few classes for it"
            rows.append(subject.refused(None, metric, reason, (models, 0, 0)))
            continue
        interval = intervals.of_resamples(values, utility.bounds)(intervals.CONFIDENCE)
        rarest = int(counts[counts > 0].min())
        still = interval.high - interval.low <= ROUNDING
        if utility.by_class and not fixed and (rarest < FEW or still):
            interval = intervals.widen(interval, rarest, intervals.CONFIDENCE)
        elif utility.rate or (still and not utility.by_class and not utility.regression):
            interval = intervals.widen(interval, examples, intervals.CONFIDENCE, utility.bounds)
        counted = replace(interval, n_in=0, n_out=examples * models)
        present = f"mean over the classes present; {lacking} are not" if lacking else ""
        notes = [present * utility.by_class, note * utility.decided]
        rows.append(subject.row(None, metric, counted, note="; ".join(filter(None, notes))))
    return rows


def difference(name: str, first: Resamples, second: Resamples) -> Interval | None:
    """A utility of one setting less that of another: model k of both learnt from the same members,
    and all saw the same test set, so what they have in common drops out. None where it has no
    value.
    """
    if name not in first:
        return None
    low, high = UTILITIES[name].bounds
    values = first[name] - second[name]
    if not np.isfinite(values[0]).all():
        return None
    return intervals.of_resamples(values, (low - high, high - low))(intervals.CONFIDENCE)


def constant(
    known: Int[np.ndarray, " P"], labels: Int[np.ndarray, " T"], classes: int
) -> Predictions:
    """CONSTANT, from the labels of the population, on those of the test set."""
    frequencies = np.bincount(known, minlength=classes) / len(known)
    with np.errstate(divide="ignore"):  # a class that the population does not have
        posterior = np.log(frequencies)
    return Predictions.of(np.tile(posterior, (len(labels), 1)), labels)


def constant_number(known: Float[np.ndarray, " P"], targets: Float[np.ndarray, " T"]) -> Estimates:
    """CONSTANT of a regression: the mean of the population, of every example of the test set."""
    return Estimates(np.full(len(targets), float(np.mean(known))), targets)


def constant_rows(measured: Resamples, counts: Int[np.ndarray, " C"]) -> list[Row]:
    """The rows of CONSTANT, of one predictor; counts as for utility_rows."""
    return utility_rows(Subject(CONSTANT, "", None, 0.0), measured, counts, fixed=True)


def log_odds(log_posterior: Float[np.ndarray, "T C"]) -> Float[np.ndarray, " T"]:
    """Of the second of two classes."""
    with np.errstate(invalid="ignore"):  # both can be without a probability
        odds: np.ndarray = log_posterior[:, 1] - log_posterior[:, 0]
    return np.where(np.isnan(odds), 0.0, odds)


def fitted_threshold(
    name: str, log_posterior: Float[np.ndarray, "P 2"], labels: Int[np.ndarray, " P"]
) -> float:
    """The log-odds from which on a decision for the second class gives the best accuracy, macro F1
    or, for any other utility, balanced accuracy: halfway between two of these examples.

    0, which is that of the highest posterior, where they are all of one class.
    """
    ranking = Ranking.of(log_odds(log_posterior), labels == 1)
    fp, tp = ranking.counts()
    positive, negative = tp[-1], fp[-1]
    if not positive or not negative:
        return 0.0
    fn, tn = positive - tp, negative - fp
    gain = {
        "accuracy": tp + tn,
        "macro_f1": 2 * tp / (2 * tp + fp + fn) + 2 * tn / np.maximum(2 * tn + fp + fn, 1),
    }.get(name, tp * negative + tn * positive)
    cut = int(gain.argmax())  # so many distinct values lie above
    values = ranking.values
    if cut == 0:
        return float(np.nextafter(values[0], np.inf))
    return float(values[-1]) if cut == len(values) else float(values[cut - 1] + values[cut]) / 2


def train_row(
    subject: Subject, right: Bool[np.ndarray, "M N"], membership: Bool[np.ndarray, "M N"]
) -> Row:
    """Accuracy on members, over models; right bool [M, N]."""

    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        hits, counted = (
            metrics.counts(flags, weights) for flags in (right & membership, membership)
        )
        shares: np.ndarray = hits / np.maximum(counted, 1)
        return shares

    at = intervals.fleet_interval(metrics.PerTarget(of), membership, (0.0, 1.0))
    trials = int(membership.any(axis=0).sum())
    interval = intervals.widen(at(intervals.CONFIDENCE), trials, intervals.CONFIDENCE)
    return subject.row(None, TRAIN_ACCURACY, replace(interval, n_in=int(membership.sum()), n_out=0))
