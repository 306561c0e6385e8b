"""dptrain calibrate: never above the target, everything that noise buys, and one line for what is
wrong.
"""

import math
import subprocess
import sys

import pytest

from dptrain import cli
from dptrain.privacy import calibration, gaussian
from dptrain.privacy.pld import SLACK
from tests.common import strict_json

MNIST = ["n=60000", "batch_size=256", "epochs=20", "prv_seconds=0"]


def asked(capsys, *arguments):
    assert cli.main(["calibrate", *arguments, "format=json"]) == 0
    return strict_json(capsys.readouterr().out)


@pytest.mark.whole
def test_the_other_way_round(capsys):
    """Opacus's MNIST example, every column."""
    found = asked(
        capsys,
        "noise_multiplier=0.7",
        "sample_rate=0.004",
        "steps=11250",
        "delta=1e-5",
        "prv_seconds=60",
    )
    assert found["epsilon"] == pytest.approx(5.43, abs=0.01)
    assert round(found["epsilon_rdp_classic"], 2) == 6.86
    assert found["epsilon"] < found["epsilon_rdp"] < found["epsilon_rdp_classic"]
    assert abs(found["epsilon_prv"] - found["epsilon"]) <= 0.02
    assert (
        2 * found["epsilon"]
        < found["epsilon_group_2"]
        < found["epsilon_group_8"]
        < found["epsilon_without_amplification"]
    )
    assert 0.001 < found["max_tpr_at_fpr_0.001"] < found["max_tpr_at_fpr_0.01"] < found["max_auc"]
    assert (found["steps"], found["sample_rate"], found["delta"]) == (11250, 0.004, 1e-5)
    assert 1 < found["mu"] < 2


def test_shown_numbers_are_never_below_and_no_digit_too_high():
    assert calibration._shown(1e-5) == "1e-05"
    assert calibration._shown(2.5e-4) == "0.00025"
    assert float(calibration._shown(1.23456789e-4)) == 1.23457e-4
    assert float(calibration._shown(1.2345601e-4)) == 1.23457e-4
    assert calibration._shown(2.00001) == "2.0001"


@pytest.mark.parametrize(
    ("target", "value", "column"),
    [
        ("epsilon", 0.1, "epsilon"),
        ("epsilon", 2.0, "epsilon"),
        pytest.param("epsilon", 50.0, "epsilon", marks=pytest.mark.long),
        ("max_advantage", 0.05, "max_advantage"),
        ("max_advantage", 0.3, "max_advantage"),
        ("max_tpr", 0.02, "max_tpr_at_fpr_0.01"),
        ("max_tpr", 0.2, "max_tpr_at_fpr_0.01"),
    ],
)
def test_the_target_is_met_and_little_is_wasted(capsys, target, value, column):
    found = asked(capsys, f"{target}={value}", *MNIST)
    assert value - min(SLACK, value / 100) <= found[column] <= value


def test_risk_at_any_false_positive_rate(capsys):
    found = asked(capsys, "max_tpr=0.005", "at_fpr=0.0003", *MNIST)
    assert 0.00495 <= found["max_tpr_at_fpr_0.0003"] <= 0.005


def test_shuffled_batches_get_no_amplification(capsys):
    found = asked(capsys, "noise_multiplier=3", "sampling=shuffled", *MNIST)
    begun = 21  # passes: 4,688 steps of 256 are a little more than 20
    assert found["epsilon"] == pytest.approx(
        gaussian.epsilon_above(math.sqrt(begun) / 3, 1e-5), rel=1e-6
    )
    assert found["epsilon"] == found["epsilon_without_amplification"]
    assert cli.main(["calibrate", "noise_multiplier=3", "sampling=shuffled", *MNIST]) == 0
    assert "no amplification" in capsys.readouterr().out


def test_the_table_says_what_each_number_is(capsys):
    assert cli.main(["calibrate", "epsilon=1", *MNIST]) == 0
    out = capsys.readouterr().out
    for part in (
        "noise_multiplier",
        "epsilon_rdp_classic",
        "papers up to 2020",
        "max_tpr_at_fpr_0.001",
        "person with 8 examples",
        "delta x n = 0.6",
    ):
        assert part in out


BAD = [
    ([], "epsilon"),
    (["epsilon=1"], "batch_size"),
    (["epsilon=1", "noise_multiplier=1", *MNIST], "noise_multiplier"),
    (["epsilon=0", *MNIST], "epsilon"),
    (["epsilon=-1", *MNIST], "epsilon"),
    (["epsilon=nan", *MNIST], "epsilon"),
    (["epsilon=inf", *MNIST], "epsilon"),
    (["epsilon=101", *MNIST], "epsilon"),
    (["epsilon=a", *MNIST], "epsilon"),
    (["max_advantage=1", *MNIST], "max_advantage"),
    (["max_advantage=0", *MNIST], "max_advantage"),
    (["max_tpr=0.01", *MNIST], "max_tpr"),
    (["max_tpr=1.5", *MNIST], "max_tpr"),
    (["max_tpr=0.5", "at_fpr=0", *MNIST], "at_fpr"),
    (["noise_multiplier=0", *MNIST], "noise_multiplier"),
    (["noise_multiplier=nan", *MNIST], "noise_multiplier"),
    (["epsilon=1", "batch_size=10", "steps=5"], "n"),
    (["epsilon=1", "batch_size=0", "n=10", "steps=5"], "batch_size"),
    (["epsilon=1", "batch_size=11", "n=10", "steps=5"], "batch_size"),
    (["epsilon=1", "sample_rate=0", "steps=5"], "sample_rate"),
    (["epsilon=1", "sample_rate=1.1", "steps=5"], "sample_rate"),
    (["epsilon=1", "sample_rate=nan", "steps=5"], "sample_rate"),
    (["epsilon=1", "sample_rate=0.1", "steps=5", "epochs=3"], "epochs"),
    (["epsilon=1", "sample_rate=0.1"], "epochs"),
    (["epsilon=1", "sample_rate=0.1", "steps=0"], "steps"),
    (["epsilon=1", "sample_rate=0.1", "epochs=0"], "epochs"),
    (["epsilon=1", "sample_rate=0.1", "epochs=inf"], "epochs"),
    (["epsilon=1", "sample_rate=0.1", "epochs=1e20"], "steps"),
    (["epsilon=1", "n=0", "sample_rate=0.1", "steps=5"], "n"),
    (["epsilon=1", "delta=0", *MNIST], "delta"),
    (["epsilon=1", "delta=1", *MNIST], "delta"),
    (["epsilon=1", "delta=0.001", *MNIST], "delta"),
    (["epsilon=1", "sampling=fixed", *MNIST], "sampling"),
    (["epsilon=1", "format=xml", *MNIST], "format"),
    (["epsilon=1", "prv_seconds=-1", "n=60000", "batch_size=256", "epochs=20"], "prv_seconds"),
    (["epsilon=1", "bach_size=3"], "bach_size"),
    (["epsilon=1e-9", "sample_rate=1", "steps=1000000"], "epsilon"),
    (["max_tpr=0.9999", "at_fpr=0.5", "sample_rate=0.01", "steps=100"], "max_tpr"),
    (["epsilon=1", "sample_rate=1e-9", "steps=5"], "sample_rate"),
    (["epsilon=1", "sample_rate=0.1", "steps=100000000"], "steps"),
    (["noise_multiplier=0.01", *MNIST], "noise_multiplier"),
    (["noise_multiplier=1e6", *MNIST], "noise_multiplier"),
    (["epsilon=1", "sample_rate=0.1", "steps=5", "delta=1e-300"], "delta"),
]


@pytest.mark.parametrize(("arguments", "key"), BAD)
def test_wrong_arguments_are_answered_in_one_line(arguments, key, capsys):
    assert cli.main(["calibrate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dptrain: error: {key}: ")
    assert err.count("\n") == 1


def test_it_loads_no_torch():
    code = (
        "import sys; from dptrain import cli; assert cli.main(['calibrate', 'epsilon=1', "
        "'sample_rate=1', 'steps=9']) == 0; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
