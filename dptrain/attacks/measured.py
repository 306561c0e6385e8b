"""Attacks that read what is measured beyond a model's outputs on the examples: its outputs on
copies of them, gradients, losses while it was trained.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from dptrain.attacks.scores import Scores, cross_entropy, of_each
from dptrain.attacks.shadow import Classifier, drawn, fit
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
    low, high = _window_of(table, tuple(models.tolist()))
    losses = scores.loss[target]
    return np.where((losses >= low) & (losses <= high), _share_above(scores, target), -1.0)


def _share_above(scores: Scores, model: int) -> np.ndarray:
    copies = cross_entropy(scores.extra("jittered_logits")[model], scores.labels)
    result: np.ndarray = (copies > scores.loss[model][:, None]).mean(axis=1)
    return result


@lru_cache(maxsize=2)  # every target asks for the same
def _shares(table: Scores) -> np.ndarray:
    """_share_above of every model, [M, N]."""
    return of_each(np.arange(table.models), lambda model: _share_above(table, int(model)))


@lru_cache(maxsize=2)  # a target and its complement have the same shadows
def _window_of(table: Scores, models: tuple[int, ...]) -> tuple[float, float]:
    """The window of some models' records."""
    rows = list(models)
    member = table.membership[rows].ravel()
    return _window(table.loss[rows].ravel(), _shares(table)[rows].ravel(), member)


def _window(
    loss: Float[np.ndarray, " R"], share: Float[np.ndarray, " R"], member: Bool[np.ndarray, " R"]
) -> tuple[float, float]:
    """Limits of the loss between which `share` above its best threshold has the largest TPR - FPR;
    the first of equals.
    """
    limits = np.quantile(loss, np.linspace(0, 1, GRID + 1))
    cuts = np.unique(np.quantile(share, np.linspace(0, 1, GRID + 1))[:-1])
    # Between two limits lies an odd place, and on the limit itself, which is of both windows, an
    # even one.
    ends = np.unique(limits)
    right = np.searchsorted(ends, loss, side="right")
    place = right + np.searchsorted(ends, loss, side="left")
    reached = np.searchsorted(cuts, share, side="right")
    shape = 2 * len(ends) + 1, len(cuts) + 1
    cell = place * shape[1] + reached

    def up_to(side: Bool[np.ndarray, " R"]) -> np.ndarray:
        """Share of a side whose loss lies below each place and that reaches each cut."""
        table = np.bincount(cell[side], minlength=shape[0] * shape[1]).reshape(shape)
        reaching = table[:, :0:-1].cumsum(axis=1)[:, ::-1]
        below = np.vstack([np.zeros_like(reaching[:1]), reaching.cumsum(axis=0)])
        return below / max(int(side.sum()), 1)

    gains = up_to(member) - up_to(~member)
    best, window = -np.inf, (-np.inf, np.inf)
    for i, low in enumerate(limits[:-1]):
        for high in limits[i + 1 :]:
            first, last = (2 * int(np.searchsorted(ends, end)) + 1 for end in (low, high))
            gain = float((gains[last + 1] - gains[first]).max())
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
    losses = _log_losses(scores, np.full(len(scores.labels), target), np.arange(len(scores.labels)))
    table, models = scores.records(target)
    if not len(models):
        raise Refusal(
            "a classifier of trajectories needs shadow models: models_per_setting of at least 4"
        )
    return _classifier(table, tuple(models.tolist())).log_odds(losses)


@lru_cache(maxsize=2)  # a target and its complement have the same shadows
def _classifier(table: Scores, models: tuple[int, ...]) -> Classifier:
    """Of some models' records."""
    examples = len(table.labels)
    model, example = np.divmod(drawn(len(models) * examples), examples)
    at = np.array(models)[model], example
    return fit(_log_losses(table, *at), table.membership[at])


def _log_losses(
    scores: Scores, models: Int[np.ndarray, " n"], examples: Int[np.ndarray, " n"]
) -> np.ndarray:
    """Of some models an example each, [n, E]; logarithms, since losses spread over decades."""
    losses = scores.extra("trajectory_loss")[models, examples].astype(np.float64)
    result: np.ndarray = np.log(np.maximum(losses, 1e-12))
    return result
