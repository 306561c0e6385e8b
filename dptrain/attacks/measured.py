"""Attacks that read what is measured beyond a model's outputs on the examples: its outputs on
copies of them, gradients, losses while it was trained.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from dptrain.attacks.scores import Scores, cross_entropy
from dptrain.attacks.shadow import drawn, fit
from dptrain.core.errors import Refusal

GRID = 16
"""Quantiles that Morgan's thresholds are chosen from."""


def merlin(scores: Scores, target: int) -> np.ndarray:
    """Share of the jittered copies at which the loss is larger than at the example, float64 [N]
    (Jayaraman et al. 2021, algorithm 2).

    A member lies at a minimum of the loss. Raises Refusal without jittered_logits.
    """
    return _share_above(scores, target)


def morgan(scores: Scores, target: int) -> np.ndarray:
    """Merlin's share where the loss lies in a window, -1 elsewhere, float64 [N] (Jayaraman et al.
    2021, section 5.3).

    The window is the one of GRID quantiles of the losses in the attacker's records at which Merlin
    with its best threshold gains most: a loss too low says little, since many non-members have one
    too. Raises Refusal without shadow models or jittered_logits.
    """
    table, models = scores.records(target)
    if not len(models):
        raise Refusal("Morgan's thresholds need shadow models")
    member = table.membership[models].ravel()
    known = table.loss[models].ravel()
    share = np.concatenate([_share_above(table, model) for model in models.tolist()])
    low, high = _window(known, share, member)
    losses = scores.loss[target]
    return np.where((losses >= low) & (losses <= high), _share_above(scores, target), -1.0)


def _share_above(scores: Scores, model: int) -> np.ndarray:
    copies = cross_entropy(scores.extra("jittered_logits")[model], scores.labels)
    result: np.ndarray = (copies > scores.loss[model][:, None]).mean(axis=1)
    return result


def _window(
    loss: Float[np.ndarray, " R"], share: Float[np.ndarray, " R"], member: Bool[np.ndarray, " R"]
) -> tuple[float, float]:
    """Limits of the loss between which `share` above its best threshold has the largest TPR - FPR;
    the first of equals.
    """
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
    """Share of the copies, and of the example itself, that the target labels rightly, float64 [N]
    (Choquette-Choo et al. 2021, section 4).

    copies: noisy or augmented. Reads predicted labels only. Raises Refusal without those copies.
    """
    asked = scores.extra(f"{copies}_logits")[target]
    right = asked.argmax(axis=-1) == scores.labels[:, None]
    itself = scores.predicted(target) == scores.labels
    result: np.ndarray = (right.sum(axis=1) + itself) / (right.shape[1] + 1)
    return result


def gradient_norm(scores: Scores, target: int) -> np.ndarray:
    """Negative norm of the gradient of the example's loss, float64 [N] (Nasr et al. 2019, section
    III): it is small at what was fitted.
    """
    result: np.ndarray = -scores.extra("gradient_norm")[target].astype(np.float64)
    return result


def gradient_canary(scores: Scores, target: int) -> np.ndarray:
    """How far the model went the example's own way, float64 [N]: the cosine of its way and the
    descent direction (Andrew et al. 2024, section 3, for gradients in the place of random
    canaries).
    """
    result: np.ndarray = scores.extra("gradient_canary")[target].astype(np.float64)
    return result


def trajectory(scores: Scores, target: int) -> np.ndarray:
    """Log odds of membership by a classifier trained on the shadows' losses at every checkpoint,
    float64 [N] (Liu et al. 2022, section 4, with the real checkpoints in the place of distilled
    ones). Raises Refusal without trajectory_loss or shadows.
    """
    features = _log_losses(scores, np.array([target]))[0]
    table, models = scores.records(target)
    if not len(models):
        raise Refusal(
            "a classifier of trajectories needs shadow models: models_per_setting of at least 4"
        )
    known = _log_losses(table, models)
    model, example = np.divmod(drawn(known[..., 0].size), known.shape[1])
    member = table.membership[models[model], example]
    return fit(known[model, example], member).log_odds(features)


def _log_losses(scores: Scores, models: Int[np.ndarray, " K"]) -> np.ndarray:
    """[models, N, E]; logarithms, since losses spread over decades."""
    result: np.ndarray = np.log(
        np.maximum(scores.extra("trajectory_loss")[models].astype(np.float64), 1e-12)
    )
    return result
