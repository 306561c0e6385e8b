"""Subgroups: each number is that of the group's rows alone, and all intervals hold at once."""

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score

from dptrain.core import streams
from dptrain.evaluation import intervals, metrics, subgroups
from dptrain.evaluation.subgroups import GroupRow, UtilityByGroup
from dptrain.evaluation.utility import Predictions


def said(rng, labels, skill):
    """A model's answers on examples, better where `skill` is greater."""
    logits = rng.normal(size=(len(labels), 2))
    logits[np.arange(len(labels)), labels] += skill
    return Predictions.of(log_softmax(logits, axis=-1), labels)


def measured(models, masks, names=("accuracy",)):
    by_group = UtilityByGroup(masks, names)
    for model in models:
        by_group.add(model)
    return by_group.resampled()


def columns(rng, count=600):
    return {
        "sex": rng.choice(["f", "m"], count),
        "race": rng.choice(["a", "b", "c"], count, p=[0.7, 0.25, 0.05]),
    }


def test_numbers_are_those_of_the_groups_rows():
    rng = np.random.default_rng(0)
    masks, labels = subgroups.masks_of(columns(rng)), rng.integers(0, 2, 600)
    assert sorted(masks) == ["race=a", "race=b", "race=c", "sex=f", "sex=m"]
    models = [said(rng, labels, 1.0) for _ in range(6)]
    base = [said(rng, labels, 2.0) for _ in range(6)]
    names = ("accuracy", "balanced_accuracy", "accuracy")
    values, baseline = measured(models, masks, names), measured(base, masks, names)
    rows = subgroups.utility_rows("s", values, baseline, masks, labels, 10)
    assert len(rows) == 10
    of = {(row.group, row.measure): row for row in rows}
    for group, mask in masks.items():
        row = of[group, "test accuracy"]
        assert row.rows == mask.sum()
        if mask.sum() < 50:
            assert row.value is None
            assert row.note == f"refused: {mask.sum()} rows, fewer than 50"
            continue
        inside = np.mean([model.right[mask].mean() for model in models])
        outside = np.mean([model.right[~mask].mean() for model in models])
        was = np.mean([model.right[mask].mean() for model in base])
        were = np.mean([model.right[~mask].mean() for model in base])
        assert row.value[0] == pytest.approx(inside, abs=1e-12)
        assert row.gap[0] == pytest.approx(inside - outside, abs=1e-12)
        assert row.change[0] == pytest.approx(inside - was, abs=1e-12)
        assert row.excess[0] == pytest.approx(inside - was - (outside - were), abs=1e-12)
        balanced = np.mean(
            [balanced_accuracy_score(labels[mask], model.decided[mask]) for model in models]
        )
        assert of[group, "test balanced accuracy"].value[0] == pytest.approx(balanced, abs=1e-12)
        for limits in (row.value, row.gap, row.change, row.excess):
            assert limits[1] <= limits[0] <= limits[2]
    plain = subgroups.utility_rows("none", baseline, None, masks, labels, 10)
    assert all(row.change is None and row.excess is None for row in plain)
    assert GroupRow(**rows[0].to_json()) == rows[0]


def test_risk_is_the_auc_of_the_groups_rows():
    rng = np.random.default_rng(1)
    masks = subgroups.masks_of(columns(rng, 400))
    member = streams.memberships(8, 400, streams.seeded_key(0, "test"))
    leaking = masks["race=b"] * 1.5 + 0.2
    matrix = rng.normal(size=(8, 400)) + leaking * member
    rows = {row.group: row for row in subgroups.risk_rows("s", "loss", matrix, member, masks, 5)}
    for group, mask in masks.items():
        if rows[group].value is None:
            assert mask.sum() < 50
            continue
        aucs = [metrics.auc(matrix[k, mask], member[k, mask]) for k in range(8)]
        others = [metrics.auc(matrix[k, ~mask], member[k, ~mask]) for k in range(8)]
        assert rows[group].value[0] == pytest.approx(np.mean(aucs), abs=1e-12)
        assert rows[group].gap[0] == pytest.approx(np.mean(aucs) - np.mean(others), abs=1e-12)
    assert rows["race=b"].gap[1] > 0.1
    assert rows["sex=f"].gap[1] <= 0 <= rows["sex=f"].gap[2]


RUNS, RIGHT = 200, float(norm.cdf(1 / np.sqrt(3)))


@pytest.mark.long
def test_all_intervals_hold_at_once():
    """Twenty groups that are like all others: in 200 runs some interval of a gap leaves 0 out in
    more than a twentieth of them with probability 1e-6 at most: 27 runs. Without the correction
    half of the runs would have one.
    """
    rng = np.random.default_rng(2)
    wrong = wrong_value = 0
    for _ in range(RUNS):
        masks = subgroups.masks_of({"g": rng.integers(0, 20, 2000).astype(str)})
        labels = rng.integers(0, 2, 2000)
        shared = rng.normal(size=2000)  # examples hard for one model are hard for the next
        models = []
        for _ in range(6):
            logits = rng.normal(size=(2000, 2))
            logits[np.arange(2000), labels] += 1 + shared
            models.append(Predictions.of(log_softmax(logits, axis=-1), labels))
        rows = subgroups.utility_rows("s", measured(models, masks), None, masks, labels, len(masks))
        # A model is right where a normal of variance 3 lies below 1.
        wrong += any(row.gap[1] > 0 or row.gap[2] < 0 for row in rows)
        wrong_value += any(row.value[1] > RIGHT or row.value[2] < RIGHT for row in rows)
    assert wrong <= 27
    assert wrong_value <= 27


def test_a_column_of_many_values_is_no_grouping():
    with pytest.raises(ValueError, match="id has 60 values, more than 50"):
        subgroups.masks_of({"id": np.arange(60).astype(str)})


def test_the_confidence_of_each_interval():
    assert intervals.at_once(1) == pytest.approx(0.95)
    assert intervals.at_once(50) == pytest.approx(0.999)
