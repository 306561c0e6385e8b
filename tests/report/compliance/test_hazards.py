"""Hazards answered: every number is one of the run, and nothing refuted is claimed."""

from dataclasses import replace

import pytest

from dptrain.report.compliance.hazards import HAZARDS, Status, answers
from dptrain.report.record import Record
from dptrain.report.statement import rounded_up
from dptrain.report.tables import number


def text_of(record, start):
    [answer] = [answer for hazard, answer in answers(record) if start in hazard]
    return answer.status, " ".join(answer.text)


def test_numbers_are_those_of_the_statement(done):
    statement = done.statements["dpsgd-8"]
    status, text = text_of(done.record, "Large values")
    assert status == Status.ANSWERED
    assert f"({rounded_up(statement.epsilon, 2)}, 1e-05)-DP" in text
    assert "none against whoever knows the seed" in text  # of this run's noise
    assert number(statement.ceilings.auc, bound=True) in text
    assert "none: trained without differential privacy" in text
    _, text = text_of(done.record, "Event-level")
    assert rounded_up(statement.group["2"], 2) in text
    _, text = text_of(done.record, "does not mitigate")
    assert rounded_up(statement.evaluated.composed.epsilon, 2) in text


def test_what_only_the_organisation_knows_is_left_to_it(done):
    assert len(HAZARDS) == 20
    left = [hazard for hazard, answer in answers(done.record) if not answer.text]
    assert len(left) == 5
    assert all(
        answer.status == Status.ORGANISATION
        for _, answer in answers(done.record)
        if not answer.text
    )
    status, text = text_of(done.record, "systemic bias")
    assert status == Status.ORGANISATION
    assert "No subgroup was measured" in text


def test_a_large_epsilon_is_called_one(done):
    large = replace(done.statements["dpsgd-8"], epsilon=12.0)
    _, text = text_of(replace(done.record, statements={"dpsgd-8": large}), "Large values")
    assert "above 10, so this says little" in text


def test_deltas_that_differ_are_not_to_be_compared(done):
    other = replace(done.statements["dpsgd-8"], delta=1e-6)
    record = replace(done.record, statements={**done.record.statements, "dpsgd-4": other})
    _, text = text_of(record, "different values of δ")
    assert text == "The delta differs (1e-05; 1e-06): those settings are not to be compared."


def test_nothing_is_claimed_of_a_refuted_setting(done):
    rows = [
        replace(row, contradicted=row.setting == "dpsgd-8" and row.ceiling is not None)
        for row in done.rows
    ]
    record = replace(done.record, rows=rows)
    for start in ("Large values", "catastrophic", "not captured", "Event-level", "large value for"):
        _, text = text_of(record, start)
        assert "dpsgd-8: REFUTED by a measurement" in text
        assert "-DP" not in text


@pytest.mark.parametrize("hazard", range(len(HAZARDS)))
def test_a_run_without_statements_is_answered_without_a_number(hazard):
    _, answer = HAZARDS[hazard]
    assert not any(
        sign.isdigit() for text in answer(Record(name="n", rows=[])).text for sign in text
    )
