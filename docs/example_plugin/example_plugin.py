"""A model, a data set and an attack, as another package adds them to dptrain."""

import math

import numpy as np
from sklearn.datasets import make_moons
from torch import nn

from dptrain.data import Examples, Source


def deep_linear(shape, classes, width=16):
    """A builder takes the shape of one input and the number of classes, then options with defaults:
    model=deep_linear +model.width=32.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), width),
        nn.GELU(),
        nn.LayerNorm(width),
        nn.Linear(width, classes),
    )


def moons(config, seed):
    """A data set takes the `dataset` part of the configuration and the seed, and says what is
    public before it reads anything.
    """

    def read():
        inputs, labels = make_moons(5000, noise=0.3, random_state=0)
        return Examples(inputs.astype(np.float32), labels.astype(np.int64))

    return Source("inputs as they are, nothing fitted", (2,), 2, 5000, read)


def margin(scores, target):
    """An attack takes what all models say and the number of the attacked one; higher = member. It
    never reads the target's membership.
    """
    logits = scores.logits[target].mean(axis=1)
    rows = np.arange(len(scores.labels))
    true = logits[rows, scores.labels]
    logits[rows, scores.labels] = -np.inf
    return true - logits.max(axis=1)
