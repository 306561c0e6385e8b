"""ATTACKS: one pure function a file, (Scores, target, options) -> membership score [N], higher = member, always.

An attack on model `target` reads the target's logits, the labels, and the logits and memberships of `scores.shadows(target)`; never the
target's own membership. It raises Refusal when there are too few shadows for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from dptrain.attacks.lira import lira
from dptrain.attacks.loss import loss
from dptrain.attacks.shadow import shadow

ATTACKS: dict[str, Callable[..., np.ndarray]] = {
    "loss": loss,
    "shadow": shadow,
    "lira": partial(lira, online=True),
    "lira_offline": partial(lira, online=False),
}
