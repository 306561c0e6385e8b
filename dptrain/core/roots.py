"""Where a function of one number crosses zero.

Calibration (privacy.pld) brackets by itself, since it must end on noise that was evaluated on the
safe side, within a slack; the rest has its roots from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

TOLERANCE = 1e-12
"""Of a crossing, relative to its size where that is above 1."""


def crossing(excess: Callable[[float], float], start: float = 0.0, most: float = 1000.0) -> float:
    """The first bracket upwards from `start` in which `excess` turns from negative to positive, by
    Brent's method, to TOLERANCE.

    excess: negative below the crossing and positive above it; of a yes or no, -1 and 1. Returns
    `start` where it is not negative there, and infinity where it is negative up to `most`.
    """
    if excess(start) >= 0:
        return start
    low, high = start, max(1.0, 2 * start)
    while excess(high) < 0:
        if high > most:
            return math.inf
        low, high = high, 2 * high
    return float(brentq(excess, low, high, xtol=TOLERANCE, rtol=4 * TOLERANCE, maxiter=500))
