"""Tests of training.inference."""

import numpy as np
import torch
from torch import nn

from dptrain.fleet import models as trained
from tests.common import TINY


def test_losses_on_the_way_are_those_of_the_model_on_the_way(tmp_path):
    """The last checkpoint is the released model."""
    from dptrain.config import compose
    from dptrain.pipeline import run

    overrides = [
        *TINY,
        "training.trajectory=4",
        "training.epochs=20",
        "epsilons=[inf]",
        "attacks=[loss]",
        f"output={tmp_path / 'out'}",
    ]
    chosen = compose.load("sweep", overrides)
    run.sweep(chosen, show_progress=False)
    ready = run.plan(chosen)
    fleet = run.load(ready, run.Store(tmp_path / "out" / "store"))
    setting = ready.settings[0]
    kept, logits = (
        trained.trajectories(fleet, setting),
        trained.logits(fleet, setting)["pool"][:, :, 0],
    )
    assert kept.shape == (6, 60, 4)
    labels = torch.from_numpy(fleet.dataset.pool.labels)
    last = [
        nn.functional.cross_entropy(torch.from_numpy(own), labels, reduction="none").numpy()
        for own in logits
    ]
    np.testing.assert_allclose(kept[:, :, -1], np.stack(last), rtol=1e-5, atol=1e-6)
    # The model moved between any two.
    assert np.abs(np.diff(kept, axis=2)).max(axis=(0, 1)).min() > 0.01
