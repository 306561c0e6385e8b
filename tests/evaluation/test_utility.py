"""Tests of evaluation.utility."""

import numpy as np
import pytest

from dptrain.config import compose
from dptrain.core import store
from dptrain.pipeline import run
from tests.helpers.tables import DIGITS


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
    accuracy = {row.setting: row for row in result.rows if row.metric.name == "test_accuracy"}
    estimate, low, high = record["differences"]["dpsgd-8"]["dpsgd-7"]
    assert estimate == pytest.approx(accuracy["dpsgd-8"].estimate - accuracy["dpsgd-7"].estimate)
    unpaired = np.hypot(
        *(accuracy[name].high - accuracy[name].low for name in ("dpsgd-8", "dpsgd-7"))
    )
    assert high - low < unpaired
    assert record["differences"]["dpsgd-7"]["dpsgd-8"][0] == pytest.approx(-estimate)
