"""A record is read back as it was, and its curves hold all that a chart can show."""

import numpy as np
import pytest

from dptrain.core.errors import RunError
from dptrain.core.store import seal
from dptrain.privacy import pld
from dptrain.report import record
from dptrain.report.record import Record, Roc, roc_of, thinned
from tests.report.test_advice import SWEEP


def steps(count=50_000, seed=0):
    rng = np.random.default_rng(seed)
    fpr = np.append(0, np.sort(rng.random(count)))
    return np.append(fpr, 1.0), np.append(np.sqrt(fpr), 1.0)


def test_a_thinned_roc_is_the_roc_at_every_point_of_its_grid():
    fpr, tpr = steps()
    few, of_few = thinned((fpr, tpr), 1e-3)
    assert len(few) <= record.POINTS + 1
    for rate in np.logspace(-3, 0, record.POINTS):
        whole = tpr[np.searchsorted(fpr, rate, side="right") - 1]
        assert of_few[np.searchsorted(few, rate, side="right") - 1] == whole
    # It never lies above the whole one.
    assert (of_few <= tpr[np.searchsorted(fpr, few, side="right") - 1]).all()


def test_a_record_is_read_back(tmp_path):
    roc = roc_of("dpsgd-2", {"lira": steps(400)}, pld.claimed_trade_off(2.0, 1e-5), 1000)
    training = {"dpsgd-2": [{"step": 1, "loss": 0.5, "test_accuracy": None}]}
    whole = Record(name="n", rows=SWEEP, config={"name": "n"}, training=training, rocs=[roc])
    (tmp_path / record.METRICS).write_bytes(seal(whole.metrics()))
    (tmp_path / record.CURVES).write_bytes(whole.curves())
    again = record.read(tmp_path)
    assert [*again.rows] == [*whole.rows]
    assert again.training == training
    assert again.rocs[0].to_json() == roc.to_json()
    assert Roc.of(roc.to_json()).edge == roc.edge == 0.01
    (tmp_path / record.CURVES).unlink()
    assert record.read(tmp_path).rocs == ()
    for damaged in (b"{}", b"[", whole.curves().replace(b"0.5", b"0.6", 1)):
        (tmp_path / record.CURVES).write_bytes(damaged)
        with pytest.raises(RunError, match="was altered"):
            record.read(tmp_path)
