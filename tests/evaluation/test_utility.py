"""Utility: equal to scikit-learn's measures, intervals that cover, differences that are paired."""

import warnings

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binom
from sklearn import metrics as reference

from dptrain.config import compose
from dptrain.core import store
from dptrain.evaluation import intervals
from dptrain.evaluation.rows import Subject
from dptrain.evaluation.utility import (
    BINS,
    CONSTANT,
    UTILITIES,
    Predictions,
    constant,
    difference,
    fitted_threshold,
    log_odds,
    resamples,
    utility_rows,
)
from dptrain.pipeline import run
from dptrain.report import tables
from tests.helpers.tables import DIGITS

SUBJECT = Subject("none", "", None, 0.0)

OF_CLASSES = {name: each for name, each in UTILITIES.items() if not each.regression}
"""Those of a regression: tests/pipeline/test_regression.py."""


def predictions(classes, examples=400, seed=0, ties=False, skew=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, examples, p=_frequencies(classes, skew))
    logits = rng.standard_normal((examples, classes))
    logits[np.arange(examples), labels] += 1
    if ties:
        logits = logits.round()
    return Predictions.of(log_softmax(logits, axis=1), labels)


def _frequencies(classes, skew):
    weights = np.exp(-skew * np.arange(classes))
    return weights / weights.sum()


def calibration_error(model):
    """Bin by bin."""
    total = 0.0
    confidence = model.posterior.max(axis=1)
    right = model.log_posterior.argmax(axis=1) == model.labels
    for number in range(BINS):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        total += abs(sum(right[inside]) - sum(confidence[inside]))
    return total / len(model.labels)


def by_scikit(model, weights=None):
    y, p, decided = model.labels, model.posterior, model.decided
    classes, binary = p.shape[1], p.shape[1] == 2
    onehot = np.eye(classes)[y]
    positive = (y, p[:, 1]) if binary else (onehot, p)
    more = {"sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without examples
        return {
            "accuracy": reference.accuracy_score(y, decided, **more),
            "balanced_accuracy": reference.balanced_accuracy_score(y, decided, **more),
            "macro_f1": reference.f1_score(y, decided, average="macro", **more),
            "auroc": reference.roc_auc_score(*positive, **more),
            "auprc": reference.average_precision_score(*positive, **more),
            "log_loss": reference.log_loss(y, p, labels=range(classes), **more),
            "brier": reference.brier_score_loss(
                y, p[:, 1] if binary else p, labels=range(classes), **more
            ),
        }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_every_measure_equals_that_of_scikit_learn(classes, ties):
    model = predictions(classes, ties=ties, skew=0.3)
    ones = np.ones((1, len(model.labels)))
    weights = np.random.default_rng(1).integers(0, 4, (2, len(model.labels))).astype(float)
    for name, expected in by_scikit(model).items():
        assert UTILITIES[name].of(model)(ones)[0] == pytest.approx(expected, abs=1e-12), name
    for row in weights:
        for name, expected in by_scikit(model, row).items():
            assert UTILITIES[name].of(model)(row[None])[0] == pytest.approx(expected, abs=1e-12)
    assert set(OF_CLASSES) == {*by_scikit(model), "calibration_error"}
    assert UTILITIES["calibration_error"].of(model)(ones)[0] == pytest.approx(
        calibration_error(model), abs=1e-12
    )


def test_a_class_that_the_test_set_lacks_is_left_out_of_means():
    model = predictions(4, seed=3)
    some = model.labels != 2
    lacking = Predictions.of(model.log_posterior[some], model.labels[some])
    measured = resamples([lacking])
    assert measured["balanced_accuracy"][0, 0] == pytest.approx(
        reference.recall_score(lacking.labels, lacking.decided, labels=[0, 1, 3], average="macro")
    )
    assert np.isfinite(measured["auroc"]).all()


def test_one_class_alone_has_no_ranking_and_says_so():
    model = Predictions.of(np.log([[0.7, 0.3]] * 30), np.zeros(30, dtype=int))
    rows = utility_rows(SUBJECT, resamples([model, model]), np.array([30, 0]))
    refused = {row.metric.name for row in rows if row.estimate is None}
    assert refused == {"test_auroc", "test_auprc"}
    assert all("too few classes" in row.note for row in rows if row.estimate is None)
    assert tables.legend(rows)[-1] == (
        "test_auroc, test_auprc: refused: the test set has too few classes for it."
    )


def test_no_variation_is_no_certainty():
    """Of models that are right about all of 20 examples, and of one example alone."""
    for examples in (20, 1):
        labels = np.arange(examples) % 2
        right = Predictions.of(np.log(np.where(np.eye(2)[labels] > 0, 1 - 1e-9, 1e-9)), labels)
        measured = resamples([right] * 16)
        for row in utility_rows(SUBJECT, measured, np.bincount(labels, minlength=2)):
            if row.estimate is not None:
                assert row.high - row.low > 0.1, row.metric.name


@pytest.mark.parametrize(
    ("examples", "share"),
    [
        pytest.param(60, 0.3, marks=pytest.mark.long),
        pytest.param(300, 0.03, marks=pytest.mark.long),
        pytest.param(100, 0.05, marks=pytest.mark.long),
    ],
)
def test_intervals_cover_where_a_class_is_rare(examples, share):
    """Of 200 fleets, at 95 %, every measure of decisions or ranks that weighs classes alike and is
    unbiased there. False alarms: 1e-6 a measure.
    """

    def drawn(count, seed, models):
        rng = np.random.default_rng(seed)
        labels = (rng.random(count) < share).astype(int)
        shared = rng.standard_normal((count, 2))
        shared[np.arange(count), labels] += 2
        noisy = [shared + rng.standard_normal((count, 2)) for _ in range(models)]
        return [Predictions.of(log_softmax(each, axis=1), labels) for each in noisy], labels

    names = ("balanced_accuracy", "auroc")
    many, _ = drawn(200_000, 10**6, 1)
    truth = {name: UTILITIES[name].of(many[0])(np.ones((1, 200_000)))[0] for name in names}
    held, counted = dict.fromkeys(names, 0), 0
    for seed in range(200):
        models, labels = drawn(examples, seed, 8)
        if len(set(labels)) == 2:
            counted += 1
            rows = utility_rows(SUBJECT, resamples(models), np.bincount(labels))
            by_name = {row.metric.name.removeprefix("test_"): row for row in rows}
            for name in names:
                held[name] += by_name[name].low <= truth[name] <= by_name[name].high
    assert min(held.values()) >= binom.ppf(1e-6, counted, 0.95), held


def fleet(examples, seed, models=8):
    """Models that share the examples, some of which are hard for all of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, examples)
    shared = rng.standard_normal((examples, 3))
    shared[np.arange(examples), labels] += 1
    return [
        Predictions.of(log_softmax(shared + rng.standard_normal((examples, 3)), axis=1), labels)
        for _ in range(models)
    ]


def test_intervals_cover():
    """Of 100 fleets of 8 models and 300 examples, at 95 %: both vary, and the truth is the mean
    over many. False alarms: 1e-6 a measure. The calibration error of few examples is far above that
    of many, so its truth is that of few.
    """
    many = [resamples(fleet(20_000, 10**6 + seed, 1)) for seed in range(20)]
    few = [resamples(fleet(300, 10**7 + seed, 1)) for seed in range(200)]
    truth = {
        name: np.mean([each[name][0] for each in (few if name == "calibration_error" else many)])
        for name in OF_CLASSES
    }
    held = dict.fromkeys(OF_CLASSES, 0)
    for seed in range(100):
        measured = resamples(fleet(300, seed))
        for name, utility in OF_CLASSES.items():
            interval = intervals.of_resamples(measured[name], utility.bounds)(0.95)
            held[name] += interval.low <= truth[name] <= interval.high
    assert min(held.values()) >= binom.ppf(1e-6, 100, 0.95), held


@pytest.mark.parametrize("name", OF_CLASSES)
def test_differences_of_equals_hold_zero_and_of_unequals_do_not(name):
    models = [predictions(3, 500, seed) for seed in range(6)]
    shrunk = [
        Predictions.of(log_softmax(0.3 * each.log_posterior, axis=1), each.labels)
        for each in models
    ]
    worse = [Predictions.of(np.roll(each.log_posterior, 1, axis=1), each.labels) for each in models]
    same = difference(name, resamples(models), resamples(models))
    assert (same.low, same.estimate, same.high) == (0, 0, 0)
    other = difference(name, resamples(models), resamples(worse))
    assert not other.low <= 0 <= other.high
    if name in ("accuracy", "balanced_accuracy", "macro_f1"):
        of_order = difference(name, resamples(models), resamples(shrunk))
        assert of_order.estimate == 0


def test_the_constant_prediction_is_the_majority_of_the_population():
    known, labels = np.repeat([0, 1, 2], [70, 20, 10]), np.repeat([0, 1, 2], [30, 60, 10])
    measured = resamples([constant(known, labels, 4)])
    assert measured["accuracy"][0, 0] == pytest.approx(0.3)
    assert measured["balanced_accuracy"][0, 0] == pytest.approx(1 / 3)
    assert measured["auroc"][0, 0] == pytest.approx(0.5)
    expected = -(np.array([0.3, 0.6, 0.1]) @ np.log([0.7, 0.2, 0.1]))
    assert measured["log_loss"][0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "auroc"])
@pytest.mark.parametrize("ties", [False, True])
def test_a_fitted_threshold_is_the_best_of_all(name, ties):
    model = predictions(2, 200, 5, ties=ties, skew=2.0)
    score = log_odds(model.log_posterior)
    ones, judged = np.ones((1, 200)), name if name != "auroc" else "balanced_accuracy"

    def at(threshold):
        chosen = Predictions.of(model.log_posterior, model.labels, threshold)
        return UTILITIES[judged].of(chosen)(ones)[0]

    best = max(at(cut) for cut in [*np.unique(score), score.max() + 1])
    assert at(fitted_threshold(name, model.log_posterior, model.labels)) == pytest.approx(best)


def test_a_threshold_without_two_classes_is_that_of_the_highest_posterior():
    model = predictions(2, 50)
    assert fitted_threshold("accuracy", model.log_posterior, np.ones(50, dtype=int)) == 0.0


def test_settings_that_beat_nobody_are_named():
    paired = {
        "accuracy": {
            "a": {CONSTANT: [0.1, 0.05, 0.2], "b": [0, 0, 0]},
            "b": {CONSTANT: [0, -1, 1]},
        },
        "log_loss": {"a": {CONSTANT: [0.1, 0.05, 0.2]}, "b": {CONSTANT: [-0.2, -0.3, -0.1]}},
    }
    line = "Not shown to be better than the constant prediction: "
    assert tables.said_of_constant(paired, "accuracy") == [f"{line}b."]
    assert tables.said_of_constant(paired, "log_loss") == [f"{line}a."]
    assert "it has no AUROC" in tables.said_of_constant(paired, "auroc")[0]
    assert tables.said_of_constant({}, "accuracy") == []


def test_saturated_answers_are_ranked_by_their_log_odds():
    """Whose posteriors are all 1: no digits are left to rank by."""
    margins = np.array([38.0, 45, 50, 60, 41, 39])
    labels = np.array([0, 1, 1, 1, 0, 0])
    for side in (1, -1):
        posterior = log_softmax(np.stack([0 * margins, side * margins], axis=1), axis=1)
        model = Predictions.of(posterior, labels if side == 1 else 1 - labels)
        assert UTILITIES["auroc"].of(model)(np.ones((1, 6)))[0] == 1.0


@pytest.mark.long
def test_differences_are_paired(tmp_path):
    """What two settings have in common drops out: a sweep's differences are far narrower than those
    of unpaired intervals.
    """
    overrides = [
        *DIGITS[:-1],
        "epsilons=[8,7]",
        "models_per_setting=8",
        "training.epochs=10",
        f"output={tmp_path}",
    ]
    result = run.sweep(compose.load("sweep", overrides), show_progress=False)
    record = store.unseal((tmp_path / "metrics.json").read_bytes())
    assert record["differences"] == result.record.differences
    accuracy = {row.setting: row for row in result.rows if row.metric.name == "test_accuracy"}
    of_accuracy = record["differences"]["accuracy"]
    estimate, low, high = of_accuracy["dpsgd-8"]["dpsgd-7"]
    assert estimate == pytest.approx(accuracy["dpsgd-8"].estimate - accuracy["dpsgd-7"].estimate)
    unpaired = np.hypot(
        *(accuracy[name].high - accuracy[name].low for name in ("dpsgd-8", "dpsgd-7"))
    )
    assert high - low < unpaired
    assert of_accuracy["dpsgd-7"]["dpsgd-8"][0] == pytest.approx(-estimate)
    assert of_accuracy["dpsgd-8"][CONSTANT][0] == pytest.approx(
        accuracy["dpsgd-8"].estimate - accuracy[CONSTANT].estimate
    )
