"""Canaries take the places of pool examples, by the same coins, and are what they are called."""

import json

import numpy as np
import pytest

from dptrain import cli
from dptrain.config.compose import load
from dptrain.data import datasets, splits
from dptrain.data.canaries import CANARIES
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.statement import sentences
from tests.common import TINY


def dataset(*overrides):
    config = load("sweep", [*TINY, *overrides])
    return splits.load(datasets.source(config.dataset, config.seed), config.dataset, config.seed)


@pytest.mark.parametrize("kind", CANARIES)
def test_only_the_first_of_the_pool_are_replaced(kind):
    plain, made = dataset(), dataset("dataset.canaries=20", f"dataset.canary={kind}")
    np.testing.assert_array_equal(plain.pool.inputs[20:], made.pool.inputs[20:])
    np.testing.assert_array_equal(plain.pool.labels[20:], made.pool.labels[20:])
    assert made.pool.inputs.shape == plain.pool.inputs.shape
    assert made.pool.inputs.dtype == np.float32
    assert (made.canaries, plain.canaries) == (20, 0)
    assert made.pool.labels.dtype == np.int64
    assert 0 <= made.pool.labels.min() <= made.pool.labels.max() < 10
    again = dataset("dataset.canaries=20", f"dataset.canary={kind}")
    np.testing.assert_array_equal(again.pool.inputs, made.pool.inputs)
    inputs, old = made.pool.inputs[:20], plain.pool.inputs[:20]
    if kind == "mislabelled":
        np.testing.assert_array_equal(inputs, old)
        assert (made.pool.labels[:20] != plain.pool.labels[:20]).all()
    elif kind == "blank":
        assert not inputs.any()
    elif kind == "noise":
        assert abs(inputs.mean()) < 4.89 / np.sqrt(inputs.size)
        assert abs(inputs.std() - 1) < 4.89 / np.sqrt(2 * inputs.size)
    else:
        flat = inputs.reshape(20, -1)
        assert ((flat != 0).sum(axis=1) == 1).all()
        gram = flat @ flat.T
        np.testing.assert_allclose(np.abs(gram - np.diag(np.diag(gram))), 0)
        np.testing.assert_allclose(np.diag(gram), flat.shape[1], rtol=1e-5)


@pytest.mark.long
def test_canaries_measure_the_worst_case(tmp_path):
    """Without DP, mislabelled images are found far more often than the average; under DP the lower
    bound stays below the proved epsilon.
    """
    out = tmp_path / "out"
    overrides = [
        "name=worst",
        "dataset.pool=800",
        "dataset.population=100",
        "dataset.test=100",
        "dataset.canaries=80",
        "models_per_setting=16",
        "training.batch_size=100",
        "training.epochs=30",
        "training.width=16",
        "training.workers=1",
        "epsilons=[inf,2]",
        "attacks=[loss,lira]",
        f"output={out}",
    ]
    assert cli.main(["sweep", *overrides]) == 0
    record = json.loads((out / "metrics.json").read_text())
    rows = {
        (row["setting"], row["attack"], row["examples"], row["metric"]): row
        for row in record["rows"]
    }
    for attack in ("loss", "lira"):
        worst, average = (rows["none", attack, examples, "auc"] for examples in ("canaries", "all"))
        assert worst["low"] > average["high"]
        assert worst["n_in"] + worst["n_out"] == 16 * 80
    assert rows["none", "lira", "canaries", "epsilon_one_run"]["estimate"] > 1
    bound = rows["dpsgd-2", "lira", "canaries", "epsilon_one_run"]
    assert 0 <= bound["estimate"] <= bound["ceiling"] <= 2
    assert (
        "on the canaries" in sentences(PrivacyStatement.of(record["privacy"]["none"]))["measured"]
    )
    assert "on the canaries only" in (out / "report.html").read_text()
    exposed = record["exposed"]["none"]["vulnerable"]["lira"]
    chosen = load(
        "sweep",
        [
            "dataset.pool=800",
            "dataset.population=100",
            "dataset.test=100",
            "training.batch_size=100",
        ],
    )
    # Rows of the file.
    canaries = set(
        splits.parts(chosen.dataset, 0, datasets.source(chosen.dataset, 0))[0][:80].tolist()
    )
    assert sum(one["id"] in canaries for one in exposed) > len(exposed) / 2
    assert exposed[0]["stands_out"]
