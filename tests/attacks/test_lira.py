"""Tests of attacks.lira."""

import numpy as np
import pytest

from dptrain.attacks import ATTACKS
from dptrain.attacks.lira import choose_variance
from dptrain.attacks.scores import Scores
from dptrain.core import streams
from dptrain.evaluation import metrics


def test_variance_is_chosen_by_the_kind_of_attack():
    assert choose_variance("auto", online=True) == "shrunk"
    assert choose_variance("auto", online=False) == "global"
    assert choose_variance("global", online=True) == "global"
    with pytest.raises(ValueError, match="per_example"):
        choose_variance("individual", online=True)


def heteroscedastic(models, seed=0, examples=1500, spread=0.6):
    """Scaled logits whose spread differs between examples."""
    rng = np.random.default_rng(seed)
    member = streams.memberships(models, examples, streams.seeded_key(seed, "spread"))
    size = np.exp(spread * rng.normal(size=examples))
    phi = rng.normal(size=examples) * 3 + size * (
        rng.normal(size=(models, examples)) + 0.7 * member
    )
    logits = np.stack([phi, np.zeros_like(phi)], axis=-1)[:, :, None]
    return Scores(logits, np.zeros(examples, dtype=int), member)


def lira_auc(scores, **options):
    return np.mean(
        [
            metrics.auc(ATTACKS["lira"](scores, t, **options), scores.membership[t])
            for t in range(0, scores.models, 4)
        ]
    )


@pytest.mark.parametrize("spread", [0.0, 0.6])
@pytest.mark.parametrize("models", [16, 40, 64, 72])
def test_shrunken_variances_lose_to_neither(models, spread):
    """On two fleets, of equal and of unequal spreads, on both sides of the switch at 64 shadows
    that was a cliff.
    """
    scores = heteroscedastic(models, spread=spread)
    shrunk = lira_auc(scores)
    others = [lira_auc(scores, variance=variance) for variance in ("global", "per_example")]
    assert shrunk > max(others) - 0.004
    assert shrunk > min(others) + 0.003
