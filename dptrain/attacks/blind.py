"""The blind baseline: membership guessed without any model."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesClassifier

MOST_ROWS = 10_000
"""Examples that the trees of one half grow on; more cost minutes and find no leak that these do not."""


def blind(inputs: np.ndarray, labels: np.ndarray, member: np.ndarray, seed: int = 0) -> np.ndarray:
    """Membership scores from inputs and labels alone, float64 [N], higher = member (Das et al. 2024).

    inputs [N, *shape], labels int [N], member bool [N]. Each half of the examples is scored by trees grown on the other half. If these
    scores beat chance, members and non-members differ before any training, and attack numbers say nothing.
    """
    features = np.column_stack([inputs.reshape(len(inputs), -1), labels])
    half = np.random.default_rng(seed).permutation(len(labels)) % 2 == 0
    result = np.empty(len(labels))
    for part in (half, ~half):
        rows = np.flatnonzero(~part)[:MOST_ROWS]
        if len(np.unique(member[rows])) < 2:  # one side only: nothing to learn
            result[part] = 0.5
            continue
        trees = ExtraTreesClassifier(50, min_samples_leaf=5, random_state=seed, n_jobs=-1).fit(features[rows], member[rows])
        # Ranks within the half: raw scores shift with the share of members in the other half, which biases a joint AUC below .5.
        result[part] = rankdata(trees.predict_proba(features[part])[:, 1]) / part.sum()
    return result
