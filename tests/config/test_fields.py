"""Tests of config.fields."""

import pytest

from dptrain.config import compose
from tests.helpers.tables import refused_within


@pytest.mark.parametrize(
    "override",
    [
        "dataset.population=9223372036854775807",
        "models_per_setting=100000",
        "dataset.pool=10000000000",
    ],
)
def test_numbers_without_end_are_refused_at_once(override):
    refused_within(60, r"(must lie in|must be at most)", lambda: compose.load("sweep", [override]))
