"""Errors of layers get the configuration key that they are about."""

import pytest

from dptrain.config.keys import named
from dptrain.core import errors
from dptrain.core.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (errors.ModelError("no"), "model.name"),
        (errors.ModelError("no", "hidden"), "model.hidden"),
        (errors.DataError("no", "path"), "dataset.path"),
        (errors.TrainingError("no", "batch_size"), "training.batch_size"),
        (errors.SettingError("no", "dpsgd.clip"), "defence.dpsgd.clip"),
        (errors.AttackError("no", "lira.variance"), "attacks.lira.variance"),
        (errors.LedgerError("no"), "output"),
        (errors.TargetError("no", "epsilons"), "epsilons"),
        (errors.PluginError("no"), ""),
    ],
)
def test_keys(error, key):
    with pytest.raises(ConfigError) as raised, named():
        raise error
    assert raised.value.key == key
    assert raised.value.message == "no"


def test_other_errors_pass():
    with pytest.raises(ConfigError, match=r"^a: b$"), named():
        raise ConfigError("a", "b")
    with pytest.raises(ValueError, match="plain"), named():
        raise ValueError("plain")
