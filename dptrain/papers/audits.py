"""Audits of a mechanism whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dptrain.evaluation import one_run
from dptrain.papers.verdicts import Measured
from dptrain.privacy import gaussian


def idealised(parameters: Mapping[str, Any]) -> dict[str, Measured]:
    """Mahloujifar et al. 2024, table 1: m coins, each released with noise sigma as 0 or 1, and the
    bounds of epsilon that one run gives. The number of guesses is the best of several, as in the
    paper, which a bound of one's own data must not take.
    """
    delta, confidence = float(parameters["delta"]), float(parameters["confidence"])
    result = {}
    for case in parameters["cases"]:
        sigma, coins = float(case["sigma"]), int(float(case["coins"]))
        rng = np.random.default_rng(int(parameters["seed"]))
        members = rng.random(coins) < 0.5
        scores = members + sigma * rng.standard_normal(coins)
        order = np.argsort(scores)
        name = f"sigma {sigma:g}"
        truth = gaussian.epsilon_of(1 / sigma, delta)
        result[f"theory, {name}"] = Measured.exactly(truth)
        for method, (bound, _) in one_run.METHODS.items():
            best = 0.0
            for share in parameters["shares"]:
                half = max(1, math.floor(coins * float(share) / 2))
                right = int(members[order[-half:]].sum() + (~members[order[:half]]).sum())
                best = max(best, bound(coins, 2 * half, right, delta, confidence))
            result[f"{method}, {name}"] = Measured(best, best, best, f"{coins:,} coins")
    return result
