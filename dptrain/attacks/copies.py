"""Attacks that query the target at copies of each example: how its loss, or its label, stands up to them."""

from __future__ import annotations

import numpy as np

from dptrain.scores import Scores, cross_entropy
from dptrain.types import Refusal

GRID = 16
"""Quantiles that Morgan's thresholds are chosen from."""


def merlin(scores: Scores, target: int) -> np.ndarray:
    """Share of the jittered copies at which the loss is larger than at the example, float64 [N] (Jayaraman et al. 2021, algorithm 2).

    A member lies at a minimum of the loss. Raises Refusal without jittered_logits.
    """
    return _share_above(scores, target)


def morgan(scores: Scores, target: int) -> np.ndarray:
    """Merlin's share where the loss lies in a window, -1 elsewhere, float64 [N] (Jayaraman et al. 2021, section 5.3).

    The window is the one of GRID quantiles of the losses in the attacker's records at which Merlin with its best threshold gains most:
    a loss too low says little, since many non-members have one too. Raises Refusal without shadow models or jittered_logits.
    """
    table, models = scores.records(target)
    if not len(models):
        raise Refusal("Morgan's thresholds need shadow models")
    member = table.membership[models].ravel()
    known = table.loss[models].ravel()
    share = np.concatenate([_share_above(table, model) for model in models])
    low, high = _window(known, share, member)
    own = scores.loss[target]
    return np.where((own >= low) & (own <= high), _share_above(scores, target), -1.0)


def _share_above(scores: Scores, model: int) -> np.ndarray:
    copies = cross_entropy(scores.extra("jittered_logits")[model], scores.labels)
    return (copies > scores.loss[model][:, None]).mean(axis=1)


def _window(loss: np.ndarray, share: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    """Limits of the loss between which `share` above its best threshold has the largest TPR - FPR; the first of equals."""
    limits = np.quantile(loss, np.linspace(0, 1, GRID + 1))
    cuts = np.quantile(share, np.linspace(0, 1, GRID + 1))[:-1]
    best, window = -np.inf, (-np.inf, np.inf)
    value = np.where(member, 1 / max(member.sum(), 1), -1 / max((~member).sum(), 1))
    above = [np.where(share >= cut, value, 0.0) for cut in cuts]
    for i, low in enumerate(limits[:-1]):
        for high in limits[i + 1 :]:
            inside = (loss >= low) & (loss <= high)
            gain = max(float(gains[inside].sum()) for gains in above)
            if gain > best + 1e-12:  # beyond the rounding of equal sums
                best, window = gain, (float(low), float(high))
    return window


def label_only(scores: Scores, target: int, *, copies: str = "noisy") -> np.ndarray:
    """Share of the copies, and of the example itself, that the target labels rightly, float64 [N] (Choquette-Choo et al. 2021, section 4).

    copies: noisy or augmented. Reads predicted labels only. Raises Refusal without those copies.
    """
    asked = scores.extra(f"{copies}_logits")[target]
    right = asked.argmax(axis=-1) == scores.labels[:, None]
    own = scores.predicted(target) == scores.labels
    return (right.sum(axis=1) + own) / (right.shape[1] + 1)
