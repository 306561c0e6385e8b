"""Loss threshold."""

from __future__ import annotations

import numpy as np

from dptrain.types import Scores


def loss(scores: Scores, target: int) -> np.ndarray:
    """Negative cross-entropy of the target on each example, float64 [N] (Yeom et al. 2018, adversary 2)."""
    return -scores.loss[target]
