"""Rows and metrics survive the way through a file, and metrics are values, not names."""

import itertools
import json

import pytest

from dptrain.evaluation.rows import ADVANTAGE, AUC, ONE_RUN, Kind, Metric, Row, Threshold, tpr_at
from tests.fleets import row

ALL = [
    *(Metric(kind) for kind in (Kind.AUC, Kind.TEST_ACCURACY, Kind.TRAIN_ACCURACY)),
    *(
        Metric(kind, source, per_class)
        for kind, source, per_class in itertools.product(
            (Kind.ADVANTAGE, Kind.BALANCED_ACCURACY), Threshold, (False, True)
        )
    ),
    *map(tpr_at, (0.01, 0.001, 1e-5)),
    *(Metric(Kind.PPV, ratio=ratio) for ratio in (1, 10, 100)),
    *(Metric(Kind.EPSILON, method=method) for method in ("one_run", "one_run_fdp", "gdp")),
]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_are_read_back(metric):
    assert Metric.parse(metric.name) == metric


def test_names_differ_and_are_those_of_files():
    assert len({metric.name for metric in ALL}) == len(ALL)
    assert (AUC.name, ADVANTAGE.name, ONE_RUN.name) == ("auc", "advantage", "epsilon_one_run")
    assert tpr_at(0.001).name == "tpr_at_fpr_0.001"
    oracle = Metric(Kind.ADVANTAGE, Threshold.ORACLE, per_class=True)
    assert oracle.name == "advantage_oracle_per_class"
    for wrong in ("oracle", "tpr", "auc_per_class", "advantage_of_mine", ""):
        with pytest.raises(ValueError):  # noqa: PT011  # whatever Python says of it
            Metric.parse(wrong)


def test_rows_survive_json():
    one = row("s", "d", 2.0, "lira", "tpr_at_fpr_0.01", 0.1, 0.05, 0.2, 4, 9, 9, 0.3, "note")
    assert Row.of(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one
    assert one.interval == (0.1, 0.05, 0.2)
    assert row("s", "d", None, "a", "auc", None, None, None, 1, 2, 3).interval is None
