"""The statement says what must be said, and rounds bounds upwards."""

import json

import pytest

from dptrain.pipeline.statements import evaluated
from dptrain.privacy.statement import Composition, PrivacyStatement, planned
from dptrain.report.statement import lines
from tests.helpers.statement import OS, SEEDED, setting


@pytest.mark.parametrize("noise_seed", [False, True])
def test_statements_survive_json(noise_seed):
    chosen = setting(2.0)
    claimed = planned(chosen, SEEDED if noise_seed else OS)
    finished = evaluated(claimed, chosen, [], Composition(models=7, epsilon=3.21), "abc", "def")
    for statement in (claimed, finished):
        record = json.loads(json.dumps(statement.to_json(), allow_nan=False))
        assert PrivacyStatement.of(record) == statement
        assert lines(PrivacyStatement.of(record)) == lines(statement)
