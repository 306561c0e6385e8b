"""The three sentences: each says what the numbers say, and no more."""

from dataclasses import replace

from dptrain.evaluation.rows import BLIND
from dptrain.report.reading import reading
from dptrain.report.record import Record
from tests import fleets
from tests.report.test_advice import SWEEP, setting


def of(rows, differences=None):
    differences = {} if differences is None else {"accuracy": differences}
    return reading(Record(name="n", rows=rows, differences=differences))


def test_the_worst_setting_the_proofs_and_the_price():
    differences = {
        "dpsgd-8": {"none": [-0.04, -0.05, -0.03]},
        "dpsgd-2": {"none": [-0.09, -0.2, 0.02]},
    }
    leak, proof, cost = of(SWEEP, differences)
    assert leak == (
        "What leaks: whoever can ask the models of none, and can train models like them, tells a "
        "member from a non-member with AUC .700 [.680, .720] by lira (guessing has .5)."
    )
    assert proof == (
        "What is proved: no attack of any kind exceeds an AUC of .870 for dpsgd-8, .640 for "
        "dpsgd-2, .580 for dpsgd-1; of none, dropout nothing is proved, and a stronger attack may "
        "succeed."
    )
    assert cost == (
        "What privacy costs: test accuracy is .920 [.900, .940] without it, and changes by -.0400 "
        "[-.0500, -.0300] for dpsgd-8, by -.0900 [-.200, .0200] for dpsgd-2 (not told apart from "
        "none), .700 [.680, .720] for dpsgd-1."
    )


def test_nothing_that_was_found_is_called_safe():
    leak, proof, use = of(setting("none", 0.9, 0.51))
    assert leak == (
        "What leaks: no attack tells members of any setting from others; the strongest is lira on "
        "none, AUC .510 [.490, .530], where guessing has .5."
    )
    assert proof == (
        "What is proved: of none nothing is proved, and a stronger attack may succeed."
    )
    assert use == "What it is good for: test accuracy .900 [.880, .920] for none."


def test_a_clear_leak_is_not_hidden_by_a_greater_and_less_sure_one():
    unsure = setting("none", 0.9, 0.53, wide=0.04)
    sure = setting("dropout", 0.9, 0.52, wide=0.005)
    leak, *_ = of([*unsure, *sure])
    assert "the models of dropout" in leak
    assert "AUC .520 [.515, .525] by lira" in leak


def test_a_rate_is_that_of_the_same_attack():
    about = ("none", "d", None, "lira", "tpr_at_fpr_0.01")
    rate = fleets.row(*about, 0.1, 0.09, 0.11, 4, 100, 100)
    leak, *_ = of([*SWEEP, rate, replace(rate, attack="loss", estimate=0.3)])
    assert leak.endswith("and finds .100 [.0900, .110] of the members at 1 false alarm in 100.")


def test_a_refuted_setting_and_a_leaking_split_are_not_read():
    broken = [replace(row, contradicted=row.setting == "dpsgd-8") for row in SWEEP]
    first, _, proof, _ = of(broken)
    assert first == "Nothing of dpsgd-8 is to be trusted."
    assert "dpsgd-8" not in proof
    leaking = fleets.row("all", "", None, BLIND, "auc", 0.9, 0.8, 1.0, 4, 100, 100)
    assert of([*SWEEP, replace(leaking, contradicted=True)]) == [
        "No number of this run says anything: members differ before any training."
    ]
    assert of([]) == []
