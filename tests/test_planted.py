"""Attacks on real models: overfit ones, which every score-based attack must see through, and
untrained ones, which give nothing away.
"""

import functools
import math

import numpy as np
import pytest
import torch

from dptrain import models
from dptrain.attacks import ATTACKS
from dptrain.attacks.scores import Scores
from dptrain.core import streams
from dptrain.core.types import Mechanism, Sampling, Setting
from dptrain.evaluation import metrics, thresholds
from dptrain.training import inference
from dptrain.training.state import State
from tests.runs import make_recipe, train

SCORE_BASED = (
    "correctness",
    "loss",
    "confidence",
    "entropy",
    "modified_entropy",
    "shadow",
    "difficulty",
    "attack_p",
    "attack_r",
    "lira",
    "lira_offline",
    "rmia",
    "rmia_offline",
    "info_rmia",
    "info_rmia_offline",
)
MODELS, POOL, FEATURES, CLASSES = 24, 120, 300, 30
"""24 models, since attack R with K shadows out comes to AUC 1 - 1 / (2 K + 2) at best; 30 classes,
since correctness comes to 1 - 1 / 60.
"""


def trained(seed, steps):
    """Softmax regressions on random inputs with random labels: all they can do is remember. steps=0
    leaves them as they were drawn.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(POOL + 200, FEATURES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, POOL + 200)
    members = streams.memberships(MODELS, POOL, streams.seeded_key(seed, "planted"))
    model = models.build("logistic", {}, (FEATURES,), CLASSES, 0)
    state = State.start(
        [models.build("logistic", {}, (FEATURES,), CLASSES, 1000 * seed + k) for k in range(MODELS)]
    )
    if steps:
        n = POOL // 2
        mechanism = Mechanism(Sampling.POISSON, n, n, steps, 0.0, math.inf, n)
        setting = Setting("none", "none", None, 1e-5, mechanism, make_recipe(1.0, 0.9))
        keys = [streams.seeded_key(seed, str(k)) for k in range(MODELS)]
        train(
            model,
            setting,
            "stacked",
            state,
            keys,
            torch.from_numpy(inputs[:POOL]),
            torch.from_numpy(labels[:POOL]),
            members,
            lambda *_: None,
        )
    logits = inference.logits(model, state.released, torch.from_numpy(inputs))[:, :, None]
    outside = Scores(logits[:, POOL:], labels[POOL:], np.zeros((MODELS, 200), dtype=bool))
    return Scores(logits[:, :POOL], labels[:POOL], members, population=outside)


@functools.cache
def untrained(seed):
    return trained(seed, 0)


def mean_auc(scores, attack):
    matrix = thresholds.run(scores, attack, {}).matrix
    return float(
        np.mean([metrics.auc(*pair) for pair in zip(matrix, scores.membership, strict=True)])
    )


@pytest.mark.parametrize(
    "seeds", [range(5), pytest.param(range(5, 100), marks=pytest.mark.slow)], ids=["5", "all"]
)
def test_overfit_models_are_seen_through(seeds):
    """AUC at least .95 by every score-based attack, for every seed."""
    for seed in seeds:
        scores = trained(seed, 60)
        found = {attack: mean_auc(scores, attack) for attack in SCORE_BASED}
        assert min(found.values()) >= 0.95, (seed, found)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(name, marks=pytest.mark.long if name == "correctness" else ())
        for name in SCORE_BASED
    ],
)
def test_untrained_models_give_nothing_away(attack):
    """The mean AUC over 30 fleets of untrained models is .5 within 4.89 standard errors (false
    alarms 1e-6).
    """
    means = [mean_auc(untrained(seed), attack) for seed in range(30)]
    assert abs(np.mean(means) - 0.5) < 4.89 * np.std(means, ddof=1) / np.sqrt(30) + 1e-9


def test_the_list_is_complete():
    """The rest ask for more than scores: copies, gradients, checkpoints, or, for quantile
    regression, inputs that say something.
    """
    assert set(ATTACKS) - set(SCORE_BASED) == {
        "quantile",
        "merlin",
        "morgan",
        "label_only",
        "gradient_norm",
        "gradient_canary",
        "trajectory",
    }
