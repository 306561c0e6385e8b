"""Tests of report.statement."""

import re
from dataclasses import replace

import pytest

from dptrain.config import compose
from dptrain.core.types import Mechanism, Neighbouring, NoiseSource, Release, Sampling, Setting
from dptrain.fleet import settings
from dptrain.pipeline.statements import evaluated
from dptrain.privacy import pld
from dptrain.privacy.statement import (
    Circumstances,
    Composition,
    MeasuredBound,
    planned,
    with_prv,
)
from dptrain.report.statement import claim, lines, sentences, shared
from tests import fleets
from tests.helpers.statement import OS, SEEDED, setting
from tests.runs import make_recipe


@pytest.mark.parametrize("seeded", [False, True])
def test_seeded_noise_guarantees_nothing_to_who_knows_the_seed(seeded):
    [setting] = settings.settings(compose.load("sweep", ["epsilons=[8]"]))
    noise = NoiseSource.SEEDED if seeded else NoiseSource.OS
    said = planned(setting, Circumstances(noise=noise, preprocessing="none"))
    assert sentences(said)["guarantee"].startswith("none against whoever knows the seed") == seeded


def test_the_unit_of_groups_is_the_group():
    [setting] = settings.settings(compose.load("sweep", ["epsilons=[8]"]))
    alone = Circumstances(noise=NoiseSource.OS, preprocessing="")
    assert "a person with more" in sentences(planned(setting, alone))["unit"]
    person = replace(alone, unit="one person", grouped=True)
    assert sentences(planned(setting, person))["unit"] == "one person"


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_printed_bounds_are_bounds(epsilon):
    chosen = setting(epsilon)
    parts = sentences(planned(chosen, OS))
    curve = pld.trade_off(chosen.mechanism)
    assert float(re.match(r"\(([\d.]+), 1e-05\)", parts["guarantee"])[1]) >= pld.epsilon(
        chosen.mechanism, 1e-5
    )
    tpr_low, tpr_one, advantage, auc, mu = map(float, re.findall(r"(\d\.\d{3,})", parts["ceiling"]))
    assert tpr_low >= curve.max_tpr(0.001)
    assert tpr_one >= curve.max_tpr(0.01)
    assert advantage >= curve.max_advantage
    assert auc >= curve.max_auc
    assert mu >= pld.gaussian_mu(chosen.mechanism, 1e-5)


def test_everything_that_must_stand_beside_an_epsilon():
    text = "\n".join(lines(planned(setting(2.0), OS)))
    for part in (
        "upper bound",
        "1e-05",
        "delta x n",
        "add-or-remove-one",
        "public",
        "unit",
        "noise multiplier",
        "clip 1",
        "q = 1/10",
        "T = 40",
        "poisson",
        "PLD, or RDP where that is less, dp-accounting",
        "Opacus PRV gave no number",
        "RDP ",
        "papers up to 2020",
        "with 2 examples",
        "8 examples",
        "GDP",
        "composes",
        "evidence: claimed",
        "record: dptrain",
        "ledger",
        "last digits",
        "without amplification",
        "TPR at most",
        "AUC at most",
        "one model",
        "tuning",
        "nothing fitted",
        "operating system",
        "not hardened",
        "stands in the report alone",
    ):
        assert part in text, part


def test_seeded_noise_says_what_it_is_worth():
    assert "can subtract the noise" in sentences(planned(setting(2.0), SEEDED))["randomness"]


def test_the_fifteen_items():
    """Ponomareva et al. 2023, section 5.3, and NIST SP 800-226: none may go missing, before the run
    or after it.
    """
    items = [
        "guarantee",
        "neighbours",
        "unit",
        "mechanism",
        "accountant",
        "ceiling",
        "released",
        "composition",
        "tuning",
        "preprocessing",
        "randomness",
        "checks",
        "measured",
        "record",
        "evidence",
    ]
    chosen = setting(2.0)
    claimed = with_prv(planned(chosen, OS), 2.01)
    composed = Composition(models=7, epsilon=3.21)
    finished = evaluated(claimed, chosen, [], composed, "abc", "def")
    before, after = sentences(claimed), sentences(finished)
    assert list(before) == list(after) == items
    assert "all 7 private models" in after["composition"]
    assert "(3.210, 1e-05)" in after["composition"]
    assert "ledger def" in after["record"]
    assert "its parameters after any step included" in before["released"]
    assert "not audited" in after["evidence"]
    assert "noisy sums are rounded to multiples of" in before["randomness"]


def test_a_lower_bound_is_no_guarantee():
    """Whatever an audit shows, its sentence says how it was found and what it does not prove."""
    chosen = setting(2.0)
    finished = evaluated(
        planned(chosen, OS), chosen, [], Composition(models=1, epsilon=2.0), "", ""
    )
    note = "lower bound at 95% confidence; a perfect attack would show 2.70"
    bound = MeasuredBound(epsilon=0.1, attack="lira", examples="all", note=note, reach=2.7)
    audited = replace(finished, evaluated=replace(finished.evaluated, measured=bound))
    measured = sentences(audited)["measured"]
    assert measured == (
        f"epsilon at least 0.100 by lira, which was named beforehand: {note}. A low value is no "
        "guarantee"
    )


def test_no_privacy_claims_nothing():
    plain = Setting(
        "none",
        "none",
        None,
        1e-5,
        Mechanism(Sampling.POISSON, 50, 500, 40, 0.0, float("inf"), 50),
        make_recipe(0.1, 0.9),
    )
    text = "\n".join(lines(planned(plain, OS)))
    assert "without differential privacy" in text
    assert "epsilon" not in text


def test_words_follow_the_numbers():
    """Every number of the record moves its sentence."""
    chosen = setting(2.0)
    claimed = with_prv(planned(chosen, OS), 2.01)
    plain = sentences(claimed)
    ceilings = replace(claimed.ceilings, auc=0.99, advantage=0.98)
    for change, heading in (
        ({"epsilon": 3.5}, "guarantee"),
        ({"target_epsilon": 2.5}, "guarantee"),
        ({"delta": 2e-5}, "guarantee"),
        ({"noise_multiplier": 9.5}, "mechanism"),
        ({"clip": 0.5}, "mechanism"),
        ({"sample_rate": "1/7"}, "mechanism"),
        ({"steps": 41}, "mechanism"),
        ({"divisor": 51}, "mechanism"),
        ({"sampling": Sampling.SHUFFLED}, "mechanism"),
        ({"neighbouring": Neighbouring.ZERO_OUT}, "neighbours"),
        ({"public_n": 501}, "neighbours"),
        ({"unit": "one person"}, "unit"),
        ({"group": {"2": 4.0, "8": 16.0}}, "unit"),
        ({"mu": 0.77}, "ceiling"),
        ({"ceilings": ceilings}, "ceiling"),
        ({"accountants": replace(claimed.accountants, prv=None)}, "accountant"),
        ({"accountants": replace(claimed.accountants, rdp=2.9)}, "accountant"),
        ({"accountants": replace(claimed.accountants, rdp_classic=2.9)}, "accountant"),
        ({"accountants": replace(claimed.accountants, unamplified=99.0)}, "accountant"),
        ({"noise": NoiseSource.SEEDED}, "guarantee"),
        ({"hardening": replace(claimed.hardening, spacing=0.5)}, "randomness"),
        ({"supplied_weights": ("0.weight",)}, "guarantee"),
        ({"preprocessing": "scaled"}, "preprocessing"),
        ({"release": Release(average=0.9)}, "released"),
        ({"versions": {"torch": "9"}}, "record"),
    ):
        assert sentences(replace(claimed, **change))[heading] != plain[heading], change


def test_a_short_claim_takes_back_what_the_long_one_does():
    chosen = setting(2.0)
    claimed = planned(chosen, OS)
    assert re.fullmatch(r"\(2\.00, 1e-05\)-DP", claim(claimed))
    assert "none against" in claim(planned(chosen, SEEDED))
    assert "initial weights" in claim(replace(claimed, supplied_weights=("a",)))
    rows = [fleets.row("s", "dpsgd", 2.0, "lira", "auc", 0.9, 0.8, 1.0, 1, 9, 9, 0.7)]
    broken = [replace(rows[0], contradicted=True)]
    composed = Composition(models=1, epsilon=2.0)
    refuted = evaluated(claimed, chosen, broken, composed)
    assert claim(refuted) == "REFUTED"
    assert sentences(refuted)["guarantee"].startswith("REFUTED")


def test_what_all_settings_share_is_said_once():
    statements = {f"dpsgd-{e:g}": planned(setting(e), OS) for e in (2.0, 8.0)}
    common, rest = shared(statements)
    assert {"neighbours", "preprocessing", "tuning"} <= set(common)
    for name, statement in statements.items():
        assert {**common, **rest[name]} == sentences(statement)
        assert not set(common) & set(rest[name])
