"""The three sentences: each says what the numbers say, and no more."""

import math
from dataclasses import replace

import pytest

from dptrain.evaluation.rows import AUC, BLIND
from dptrain.privacy.statement import planned
from dptrain.report.reading import in_words, reading
from dptrain.report.record import Record
from tests import fleets
from tests.helpers.statement import OS, SEEDED
from tests.helpers.statement import setting as private
from tests.report.test_advice import SWEEP, setting


def of(rows, differences=None, circumstances=OS):
    """Of a run whose private settings have statements."""
    differences = {} if differences is None else {"accuracy": differences}
    names = {row.setting for row in rows if row.epsilon is not None}
    statements = {name: planned(private(2.0), circumstances) for name in names}
    return reading(Record(name="n", rows=rows, differences=differences, statements=statements))


def test_the_worst_setting_the_proofs_and_the_price():
    differences = {
        "dpsgd-8": {"none": [-0.04, -0.05, -0.03]},
        "dpsgd-2": {"none": [-0.09, -0.2, 0.02]},
    }
    leak, proof, cost = of(SWEEP, differences)
    assert leak == (
        "What leaks: whoever can ask the models of the setting none, and can train models like "
        "them, tells a member from a non-member with AUC .700 [.680, .720] by lira (guessing has "
        ".5)."
    )
    assert proof == (
        "What is proved: no attack of any kind on one model and one example exceeds an AUC of .870 "
        "for dpsgd-8, .640 for dpsgd-2, .580 for dpsgd-1; of the settings none, dropout nothing is "
        "proved, and a stronger attack may succeed."
    )
    assert cost == (
        "What privacy costs: test accuracy is .920 [.900, .940] without it, and changes by -.0400 "
        "[-.0500, -.0300] for dpsgd-8, by -.0900 [-.200, .0200] for dpsgd-2 (not told apart from "
        "none), .700 [.680, .720] for dpsgd-1."
    )


def test_nothing_that_was_found_is_called_safe():
    leak, proof, use = of(setting("none", 0.9, 0.51))
    assert leak == (
        "What leaks: none of the attacks that ran is shown to tell members from others; the "
        "strongest is lira on none, AUC .510 [.490, .530], where guessing has .5. That is no "
        "evidence that nothing leaks."
    )
    assert proof == (
        "What is proved: of the setting none nothing is proved, and a stronger attack may succeed."
    )
    assert use == "What it is good for: test accuracy .900 [.880, .920] for none."


def test_a_clear_leak_is_not_hidden_by_a_greater_and_less_sure_one():
    unsure = setting("none", 0.9, 0.53, wide=0.04)
    sure = setting("dropout", 0.9, 0.52, wide=0.005)
    leak, *_ = of([*unsure, *sure])
    assert "the models of the setting dropout" in leak
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


def test_of_100_members_so_many_are_found_and_no_more_can_be():
    """A bound for a person with two rows follows from epsilon of two: e^epsilon FPR + delta."""
    rate = fleets.row(
        "dpsgd-2", "dpsgd", 2.0, "lira", "tpr_at_fpr_0.01", 0.0136, 0.011, 0.016, 4, 9, 9
    )
    weaker = replace(rate, attack="loss", estimate=0.012)
    statement = planned(private(2.0), OS)
    record = Record(name="n", rows=[*SWEEP, rate, weaker], statements={"dpsgd-2": statement})
    head, body = in_words(record)
    lines = {line[0]: dict(zip(head, line, strict=True)) for line in body}
    assert list(lines) == list(dict.fromkeys(row.setting for row in SWEEP))
    assert lines["none"]["at most, by proof"] == "all: nothing is proved"
    assert lines["none"]["trained"] == "without a guarantee"
    assert lines["none"]["right answers of 100"] == "92.0 [90.0, 94.0]"
    private_line = lines["dpsgd-2"]
    assert private_line["trained"] == "with DP, epsilon 2.00"
    assert private_line["members that the attacks find, of 100"] == "1.4 [1.1, 1.6]"
    ceiling = statement.ceilings.tpr_at_fpr["0.01"]
    assert ceiling <= float(private_line["at most, by proof"]) / 100 < ceiling + 0.001
    pair = math.exp(statement.group["2"]) * 0.01 + statement.delta
    least = 1 - math.exp(-statement.group["2"]) * (1 - statement.delta - 0.01)
    shown = float(private_line["at most, where a person has 2 rows"]) / 100
    assert min(pair, least) <= shown < min(pair, least) + 0.001


def test_a_proof_of_rows_is_none_of_persons():
    """Where persons are attacked, the rows of a setting that protects single rows have no
    ceiling.
    """
    rows = [replace(row, ceiling=None) for row in setting("dpsgd-2", 0.8, 0.55, 2.0, 0.64)]
    record = Record(name="n", rows=rows, statements={"dpsgd-2": planned(private(2.0), OS)})
    [line] = in_words(record)[1]
    assert line[1] == "with DP, epsilon 2.00, of single rows"
    assert line[-2:] == ["all: nothing is proved of a person"] * 2


def test_the_table_promises_nothing_that_was_refuted_seeded_or_leaking():
    broken = [replace(row, contradicted=row.setting == "dpsgd-2") for row in SWEEP]
    claims = {"dpsgd-2": planned(private(2.0), OS)}
    lines = {
        line[0]: line for line in in_words(Record(name="n", rows=broken, statements=claims))[1]
    }
    assert lines["dpsgd-2"][1] == "without a guarantee"
    assert lines["dpsgd-2"][-1] == "all: nothing is proved"
    seeded = {"dpsgd-2": planned(private(2.0), SEEDED)}
    lines = {line[0]: line for line in in_words(Record(name="n", rows=SWEEP, statements=seeded))[1]}
    assert lines["dpsgd-2"][1].endswith("noise from a seed")
    leaking = fleets.row("all", "", None, BLIND, "auc", 0.9, 0.8, 1.0, 4, 100, 100)
    invalid = [*SWEEP, replace(leaking, contradicted=True)]
    assert in_words(Record(name="n", rows=invalid, statements=claims))[1] == []


def test_a_few_members_that_are_found_are_not_hidden_by_an_average():
    """6 % of the members are found without a false alarm, and the AUC is .51."""
    quiet = setting("none", 0.9, 0.51)
    rate = fleets.row("none", "none", None, "loss", "tpr_at_fpr_0.01", 0.066, 0.053, 0.079, 4, 9, 9)
    leak, *_ = of([*quiet, rate])
    assert "on average no attack that ran is shown" in leak
    assert "loss on none has a tpr_at_fpr_0.01 of .0660 [.0530, .0790]" in leak
    assert "guessing has 0.01" in leak
    canaries = replace(rate, metric=AUC, estimate=0.8, low=0.7, high=0.9, examples="canaries")
    leak, *_ = of([*quiet, canaries])
    assert "AUC of .800 [.700, .900] of the canaries, where guessing has 0.5" in leak
    level = replace(rate, low=0.009)
    assert "no evidence that nothing leaks" in of([*quiet, level])[0]


@pytest.mark.parametrize(
    ("attack", "needed"),
    [
        ("loss", "whoever can ask the models of the setting none tells"),
        ("gradient_norm", "whoever has the parameters of the models of the setting none tells"),
        ("trajectory", "whoever has checkpoints of the training of the models of the setting none"),
        ("rmia", "can ask the models of the setting none, and can train models like them, tells"),
    ],
)
def test_who_can_attack_is_said_of_the_attack(attack, needed):
    rows = [replace(row, attack=attack) if row.attack else row for row in setting("none", 0.9, 0.7)]
    assert needed in of(rows)[0]


def test_a_claim_is_no_proof_and_a_known_seed_ends_one():
    rows = setting("dpsgd-2", 0.8, 0.55, 2.0, 0.64)
    assert "What is proved: no attack of any kind on one model and one example" in of(rows)[1]
    seeded = of(rows, circumstances=SEEDED)[1]
    assert "no attack that does not know the seed of the noise on one model" in seeded
    foreign = reading(Record(name="n", rows=rows))[1]
    assert foreign.startswith("What is claimed: if the claim holds, no attack exceeds")
    assert "nothing here proves that it does" in foreign
