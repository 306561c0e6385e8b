"""From plain values to the schema: types, unknown keys, and nothing that could run code."""

import numpy as np
import pytest

from dptrain.config.build import build, merge, plain_value, refuse_code, suggestion
from dptrain.config.schema import PrivacyConfig
from dptrain.core.errors import ConfigError
from dptrain.core.types import NoiseSource


def test_values_become_their_types():
    built = build(PrivacyConfig, {"delta": 1e-5, "noise": "seeded"})
    assert built.noise is NoiseSource.SEEDED


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"delta": 1e-5}, "noise: missing"),
        ({"delta": "x", "noise": "os"}, "delta: expected a number"),
        ({"delta": 1e-5, "noise": "none"}, "noise: unknown value"),
        ({"delta": 1e-5, "noise": "os", "detla": 1}, "detla: unknown key; did you mean 'delta'"),
    ],
)
def test_wrong_values_are_named(values, key):
    with pytest.raises(ConfigError, match=key):
        build(PrivacyConfig, values)


@pytest.mark.parametrize(
    "hostile",
    [
        {"a": {"_target_": "os.system"}},
        {"a": ["${oc.env:HOME}"]},
        {"a": "${env:HOME}"},
        {"a": "x ${${b}:c}"},
        {"a": "${.b:c}"},
        {"a": {"b": {"_args_": [1]}}},
    ],
)
def test_what_could_run_code_is_refused(hostile):
    with pytest.raises(ConfigError, match=r"not allowed"):
        refuse_code(hostile)


def test_interpolation_of_our_own_keys_is_allowed():
    refuse_code({"a": "${dataset.pool}", "b": ["x-${seed}-y"]})


def test_values_are_put_in_their_places():
    plain = {"seed": 0, "dataset": {"pool": 1}, "attacks": {}}
    merge(plain, {"seed": np.int64(3), "dataset.pool": 7, "attacks": {"loss": {}}})
    assert plain == {"seed": 3, "dataset": {"pool": 7}, "attacks": {"loss": {}}}
    with pytest.raises(ConfigError, match=r"did you mean 'dataset\.pool'"):
        merge(plain, {"dataset.poll": 7})
    assert plain_value((np.float32(0.5), {"a": np.bool_(True)})) == [0.5, {"a": True}]
    assert suggestion("lirra", ["lira", "loss"]) == "; did you mean 'lira'?"
