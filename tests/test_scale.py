"""The simulation of large sweeps: exact where that is computed, and the table of docs/scale.md."""

from dataclasses import replace

import pytest

from scripts import scale
from tests.common import ROOT


@pytest.fixture(scope="module")
def ideal():
    """Ten stacks of four chunks on five workers, and a driver that costs nothing."""
    return scale.Cluster(
        stacks=10, work=120, workers=5, chunk=30, state=0, fixed=0, per_byte=0, straggle=0
    )


def test_without_losses_every_worker_is_busy(ideal):
    it = scale.simulate(ideal)
    assert it.hours * 3600 == pytest.approx(10 * 120 / 5)
    assert (it.busy, it.redone, it.driver) == (pytest.approx(1), 0, 0)


def test_a_slow_driver_is_all_the_time(ideal):
    """Forty chunks, served one after another."""
    slow = replace(ideal, fixed=60.0)
    it = scale.simulate(slow)
    assert it.hours * 3600 == pytest.approx(40 * 60 + 30)
    assert scale.grown(slow).chunk == ideal.work


def test_a_lost_chunk_is_done_again(ideal):
    """Of chunks as long as the mean time between losses, 1 - 1/e are lost: 1/e of tries count."""
    many = replace(ideal, stacks=2000, work=30, lost=30 / 3600, back=0.0)
    it = scale.simulate(many, seed=1)
    # Of a try's mean time, 30 (1 - 1/e) s, the share that counts is 30 / e.
    share = it.busy / (it.busy + it.redone)
    assert share == pytest.approx(0.3679 / 0.6321, abs=0.03)  # 1e-6: five standard errors are .027


def test_the_table_of_the_documentation_is_what_the_script_prints():
    lines = scale.table(10_000, 100, 24.0, scale.MEASURED.straggle)
    assert "\n".join(lines) in (ROOT / "docs" / "scale.md").read_text()
