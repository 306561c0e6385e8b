"""Attacks on what only the owner of a model can measure."""

from __future__ import annotations

import numpy as np

from dptrain.attacks.shadow import log_odds
from dptrain.scores import Scores
from dptrain.types import Refusal


def gradient_norm(scores: Scores, target: int) -> np.ndarray:
    """Negative norm of the gradient of the example's loss, float64 [N] (Nasr et al. 2019, section III): it is small at what was fitted."""
    return -scores.extra("gradient_norm")[target].astype(np.float64)


def gradient_canary(scores: Scores, target: int) -> np.ndarray:
    """How far the model went the example's own way, float64 [N]: the cosine of its way and the descent direction (Andrew et al. 2024, section 3,
    for gradients in the place of random canaries)."""
    return scores.extra("gradient_canary")[target].astype(np.float64)


def trajectory(scores: Scores, target: int) -> np.ndarray:
    """Log odds of membership by a classifier trained on the shadows' losses at every checkpoint, float64 [N] (Liu et al. 2022, section 4, with
    the real checkpoints in the place of distilled ones). Raises Refusal without trajectory_loss or shadows."""
    own = _log_losses(scores, np.array([target]))[0]
    table, models = scores.records(target)
    if not len(models):
        raise Refusal("a classifier of trajectories needs shadow models: models_per_setting of at least 4")
    known = _log_losses(table, models)
    return log_odds(known, table.membership[models], own)


def _log_losses(scores: Scores, models: np.ndarray) -> np.ndarray:
    """[models, N, E]; logarithms, since losses spread over decades."""
    return np.log(np.maximum(scores.extra("trajectory_loss")[models].astype(np.float64), 1e-12))
