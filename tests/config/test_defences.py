"""Tests of config.defences."""

import pytest

from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.estimator import DPClassifier
from dptrain.fleet import settings
from tests.helpers.small_sweep import folds


@pytest.mark.parametrize("clip", ["1e-300", "1e-44", "1e-7", "1e7", "1e30"])
def test_a_clip_that_float32_cannot_hold_is_refused(clip):
    with pytest.raises(ConfigError, match=r"defence\.dpsgd\.clip: must"):
        settings.settings(compose.load("sweep", ["epsilons=[8]", f"defence.dpsgd.clip={clip}"]))
    with pytest.raises(ValueError, match="clip: must lie in"):
        DPClassifier(clip=float(clip)).fit(*folds()[0])
