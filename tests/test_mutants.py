"""The tests catch what they are there to catch: a few of the mutants on every run, all of them
under -m slow (scripts/mutants.py).
"""

from pathlib import Path

import pytest

from scripts import mutants, self_audit
from tests.mutants import FAST, MUTANTS


def test_the_list_is_complete_and_documented():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 97
    assert mutants.table() in (Path(__file__).parent.parent / "docs" / "testing.md").read_text()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_to_change_stands_there_once(mutant):
    text = (mutants.ROOT / "dptrain" / f"{mutant.file}.py").read_text()
    assert len(mutants.places(text, mutant.old)) == 1


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            one, marks=pytest.mark.long if one.name in FAST else pytest.mark.slow, id=one.name
        )
        for one in MUTANTS
    ],
)
def test_mutants_are_killed(mutant):
    assert mutants.killer(mutant)


@pytest.mark.parametrize("mutant", self_audit.BROKEN, ids=lambda mutant: mutant.name)
def test_the_broken_trainers_of_the_self_audit_can_be_made(mutant):
    text = (mutants.ROOT / "dptrain" / f"{mutant.file}.py").read_text()
    assert len(mutants.places(text, mutant.old)) == 1
    assert mutant.new != mutant.old
