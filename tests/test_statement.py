"""The statement says what must be said, and rounds bounds upwards."""

import re

import pytest

from dptrain import accounting
from dptrain.judge import Row
from dptrain.schema import PrivacyConfig
from dptrain.statement import as_lines, checked, measured, statement
from dptrain.types import Mechanism, Recipe, Sampling, Setting

OS, SEEDED = PrivacyConfig(1e-5, "os"), PrivacyConfig(1e-5, "seeded")


def setting(epsilon):
    start = Mechanism(Sampling.POISSON, 50, 500, 40, 0.0, 1.0, 50)
    return Setting("s", "dpsgd", epsilon, 1e-5, accounting.calibrate(start, epsilon, 1e-5), Recipe(0.1))


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_printed_bounds_are_bounds(epsilon):
    chosen = setting(epsilon)
    parts = statement(chosen, OS, "nothing fitted", None)
    curve = accounting.trade_off(chosen.mechanism)
    assert float(re.match(r"\(([\d.]+), 1e-05\)", parts["guarantee"])[1]) >= accounting.epsilon(chosen.mechanism, 1e-5)
    tpr_low, tpr_one, advantage, auc, mu = map(float, re.findall(r"(\d\.\d{3,})", parts["ceiling"]))
    assert tpr_low >= curve.max_tpr(0.001)
    assert tpr_one >= curve.max_tpr(0.01)
    assert advantage >= curve.max_advantage
    assert auc >= curve.max_auc
    assert mu >= accounting.gaussian_mu(chosen.mechanism, 1e-5)


def test_everything_that_must_stand_beside_an_epsilon():
    text = "\n".join(as_lines(statement(setting(2.0), OS, "nothing fitted", None)))
    for part in (
        "upper bound", "1e-05", "delta x n", "add-or-remove-one", "public", "unit", "noise multiplier", "clip 1", "q = 1/10", "T = 40", "poisson",
        "PLD, or RDP where that is less, dp-accounting", "Opacus PRV gave no number", "RDP ", "papers up to 2020", "with 2 examples", "8 examples", "GDP", "composes", "evidence: claimed",
        "record: dptrain", "ledger", "last digits", "without amplification", "TPR at most", "AUC at most",
        "one model", "tuning", "nothing fitted", "operating system", "not hardened", "lower bound",
    ):  # fmt: skip
        assert part in text, part


def test_seeded_noise_says_what_it_is_worth():
    assert "can subtract the noise" in statement(setting(2.0), SEEDED, "", 2.01)["randomness"]


def test_the_fifteen_items():
    """Ponomareva et al. 2023, section 5.3, and NIST SP 800-226: none may go missing, before the run or after it."""
    items = [
        *("guarantee", "neighbours", "unit", "mechanism", "accountant", "ceiling", "released", "composition", "tuning", "preprocessing"),
        *("randomness", "checks", "measured", "record", "evidence"),
    ]
    chosen = setting(2.0)
    before = statement(chosen, OS, "nothing fitted", 2.01)
    after = {**before, **checked([], chosen, 3.21, 7, "configuration abc, ledger def")}
    assert list(before) == list(after) == items
    assert "all 7 private models" in after["composition"]
    assert "(3.210, 1e-05)" in after["composition"]
    assert "ledger def" in after["record"]
    assert "not audited" in after["evidence"]
    assert "noisy sums are rounded to multiples of" in before["randomness"]


def test_no_privacy_claims_nothing():
    plain = Setting("none", "none", None, 1e-5, Mechanism(Sampling.POISSON, 50, 500, 40, 0.0, float("inf"), 50), Recipe(0.1, 0.9))
    text = "\n".join(as_lines(statement(plain, OS, "", None)))
    assert "without differential privacy" in text
    assert "epsilon" not in text


def test_the_measured_bound_is_of_the_attack_named_beforehand():
    """Not the highest of many, which holds with no stated confidence; and of the canaries, where there are any."""

    def row(attack, value, examples="all"):
        return Row("s", "dpsgd", 2.0, attack, "epsilon_one_run", value, value, None, 1, 10, 10, 2.0, "its counts", examples=examples)

    rows = [row("loss", 0.9), row("lira", 0.25678), row("rmia", 1.5)]
    assert "epsilon at least 0.256 by lira: its counts" in measured("s", rows)["measured"]
    assert "on the canaries" in measured("s", [*rows, row("lira", 1.1, "canaries")])["measured"]
    assert "by entropy" in measured("s", [row("entropy", 0.1)])["measured"]
    assert "no lower bound" in measured("other", rows)["measured"]
