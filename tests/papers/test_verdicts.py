"""Paper beside ours: what agrees, what does not, and what nobody checked."""

import pytest

from dptrain.papers.presets import Expected, Source
from dptrain.papers.verdicts import Line, Measured, Verdict, judged, reproduced, table


def verdict(expected, value, others=None):
    measured = value if isinstance(value, Measured) else Measured.exactly(value)
    return Line("q", expected, measured).agrees(others or {})


@pytest.mark.parametrize(
    ("expected", "agreeing", "differing"),
    [
        (Expected(least=0.68, most=0.72), (0.68, 0.70, 0.72), (0.679, 0.721)),
        (Expected(least=1.0), (1.0, 9.0), (0.99,)),
        (Expected(paper=0.687, within=0.001), (0.686, 0.688), (0.6855, 0.6885)),
        (Expected(paper=0.0091, digits=2), (0.00905, 0.0091, 0.00914), (0.0090, 0.0092)),
        (Expected(paper=716, digits=2), (715, 724), (726, 646)),
        (Expected(paper=2.0, within=1.0, most=2.5), (2.4,), (2.6, 0.9)),
    ],
)
def test_conditions(expected, agreeing, differing):
    assert {verdict(expected, value) for value in agreeing} == {Verdict.AGREES}
    assert {verdict(expected, value) for value in differing} == {Verdict.DIFFERS}


def test_above_is_beyond_both_intervals():
    others = {"weak": Measured(0.5, 0.4, 0.6)}
    wanted = Expected(above=("weak",))
    assert verdict(wanted, Measured(0.8, 0.61, 0.9), others) == Verdict.AGREES
    assert verdict(wanted, Measured(0.8, 0.59, 0.9), others) == Verdict.DIFFERS
    assert verdict(wanted, Measured(0.5, 0.4, 0.6), others) == Verdict.DIFFERS


def test_nothing_is_reproduced_without_a_condition_or_against():
    shown = Expected(paper=1.0)
    holds, fails = Expected(least=0.0), Expected(least=9.0)
    for expected, wanted in (
        ({"a": shown}, False),
        ({"a": shown, "b": holds}, True),
        ({"a": holds, "b": fails}, False),
    ):
        measured = {name: Measured.exactly(1.0) for name in expected}
        assert reproduced(judged(expected, measured)) is wanted


def test_a_number_that_nobody_looked_up_is_not_printed():
    expected = {
        "looked up": Expected(paper=0.777, least=0.0),
        "from memory": Expected(paper=0.888, source=Source.MEMORY, least=0.0),
    }
    measured = {name: Measured(0.5, 0.4, 0.6, "4 seeds") for name in expected}
    _, body = table(judged(expected, measured))
    printed = {line[0]: line[1] for line in body}
    assert printed == {"looked up": "0.777", "from memory": "not verified"}
    assert all("0.5 [0.4, 0.6]" in line for line in body)
