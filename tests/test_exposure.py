"""Which examples are exposed, and to whom."""

import numpy as np
import pytest

from dptrain import exposure
from tests import reference

RNG = np.random.default_rng(0)


def exposed(models=16, examples=200, leaky=10):
    """The first `leaky` examples give themselves away in every model, the rest never."""
    rng = np.random.default_rng(1)
    first = rng.random((models // 2, examples)) < 0.5
    member = np.stack([first, ~first], axis=1).reshape(models, examples)
    matrix = rng.normal(size=(models, examples))
    matrix[:, :leaky] += 12 * member[:, :leaky]
    return matrix, member


@pytest.mark.parametrize("seed", range(20))
def test_auc_of_an_example_equals_its_slow_twin(seed):
    rng = np.random.default_rng(seed)
    matrix, member = rng.normal(size=(8, 15)).round(1), rng.random((8, 15)) < 0.5
    ranks = np.array([[sum(other < one for other in row) + sum(other == one for other in row) / 2 for one in row] for row in matrix])
    for i, found in enumerate(exposure.per_example_auc(matrix, member)):
        if 0 < member[:, i].sum() < 8:
            assert found == pytest.approx(reference.auc(ranks[:, i], member[:, i]))
        else:
            assert np.isnan(found)


def test_the_exposed_are_named():
    matrix, member = exposed()
    ids = np.array([f"row {i}" for i in range(200)])
    records = exposure.vulnerable(matrix, member, np.zeros(200, dtype=int), ids)
    assert {record["id"] for record in records[:10]} == {f"row {i}" for i in range(10)}
    assert records[0]["found"] == records[0]["of"] == 8
    assert records[0]["auc"] == 1.0
    assert records[0]["low"] < records[0]["high"] == 1.0
    assert all(record["stands_out"] for record in records[:10])
    assert sum(record["stands_out"] for record in records[10:]) <= 2
    assert len(records) == exposure.SHOWN


def test_stability_tells_the_same_from_chance():
    matrix, member = exposed(leaky=100)

    def steady(matrix):
        return exposure.stability(*((matrix[half], member[half]) for half in exposure.halves(16)))

    assert steady(matrix) > 0.5
    noise = np.random.default_rng(2).normal(size=matrix.shape)
    assert abs(steady(noise)) < 4.89 / np.sqrt(199)  # false alarms 1e-6
    assert exposure.halves(6) is None


def test_agreement_counts_what_only_one_finds():
    matrix, member = exposed()
    other = np.random.default_rng(3).normal(size=matrix.shape)
    other[:, 20:25] += 12 * member[:, 20:25]
    record = exposure.agreement({"one": matrix, "same": matrix.copy(), "other": other}, member, np.arange(200))
    pairs = {tuple(pair["attacks"]): pair for pair in record["pairs"]}
    assert pairs["one", "same"]["jaccard"] == 1.0
    assert pairs["one", "other"]["jaccard"] < 0.1
    assert record["alone"]["one"]["only"] == 0  # its twin finds them too
    assert set(record["alone"]["other"]["ids"]) <= set(range(20, 25))
    hits = exposure.found(matrix, member) & member
    assert record["alone"]["one"]["found"] == hits.sum()
