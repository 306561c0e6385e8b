"""A sweep of seconds on digits, and models with unusual forward passes."""

import numpy as np
import torch
from torch import nn

from dptrain.config import compose
from dptrain.pipeline import run

EIGHT_BY_EIGHT, CLASSES = (16,), 4


class On(nn.Module):
    """A function of the input, then softmax regression."""

    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.function(x))


class Detached(nn.Module):
    """Reads a weight outside its layer, where nothing but the initial one stands."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.fc(x)) + nn.functional.linear(x, self.fc.weight.detach()))


def small_sweep(folder, *overrides, **keys):
    """A sweep of seconds."""
    small = [
        "name=small",
        "dataset=digits",
        "dataset.pool=200",
        "dataset.population=60",
        "dataset.test=60",
        "training.batch_size=20",
    ]
    quick = [
        "training.epochs=1",
        "training.width=2",
        "training.workers=1",
        "models_per_setting=4",
        "attacks=[loss]",
        "epsilons=[8]",
    ]
    return run.sweep(
        compose.load("sweep", [*small, *quick, *overrides, f"output={folder}"]),
        show_progress=False,
    )


def folds(seed=0):
    """Two disjoint folds of rows."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(400, 30)), rng.integers(0, 2, 400)
    return (x[:200], y[:200]), (x[200:], y[200:])
