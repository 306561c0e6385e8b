"""What gives membership away without any attack: with such scores every number would be worthless."""

from __future__ import annotations

import numpy as np
from scipy import stats

from dptrain.scores import Scores
from dptrain.types import ConfigError

ALARM = 1e-6
"""False-alarm rate at which the memberships of shadows are held to tell those of a target."""


def _wrong(message: str) -> ConfigError:
    return ConfigError("scores", message)


def require_both(scores: Scores, name: str) -> None:
    for model in scores.attacked:
        inside = int(scores.membership[model].sum())
        if inside in (0, scores.membership.shape[1]):
            missing = "member" if inside == 0 else "non-member"
            raise _wrong(f"{name}: model {model} has no {missing}; attacks need both")


def refuse_leaks(scores: Scores) -> None:
    """What gives membership away without any attack would make every number below it worthless."""
    require_both(scores, "membership")
    for model in scores.attacked:
        member, loss = scores.membership[model], scores.loss[model]
        if len(loss) > 4 and np.ptp(loss[member]) == np.ptp(loss[~member]) == 0 and loss[member][0] != loss[~member][0]:
            raise _wrong(f"the scores of model {model} are one value for members and another for the rest: a copy of the membership")
    if scores.inputs is not None:
        flat = scores.inputs.reshape(len(scores.labels), -1)
        for model in scores.attacked:
            member = scores.membership[model]
            inside, outside = flat[member], flat[~member]
            same = (inside == inside[0]).all(axis=0) & (outside == outside[0]).all(axis=0) & (inside[0] != outside[0])
            if same.any():
                raise _wrong(f"column {int(same.argmax())} of inputs is a copy of the membership of model {model}")
    for target in scores.attacked if scores.models > 2 else ():
        member, count = scores.membership[target], scores.references(int(target))[0].sum(axis=0)
        if np.ptp(count) and stats.mannwhitneyu(count[member], count[~member]).pvalue < ALARM:
            told = f"the number of shadow models that hold an example tells whether model {target} does"
            raise _wrong(f"{told}; draw memberships by independent coins, or in complementary pairs")
    first: dict[bytes, int] = {}
    for model, loss in enumerate(scores.loss):
        twin = first.setdefault(loss.tobytes(), model)
        if twin != model and np.ptp(loss) > 0:
            raise _wrong(f"models {twin} and {model} are the same model: a target must not be among its own shadows")
    if scores.separate is not None and scores.logits is not None and scores.separate.logits is not None:
        rows = {row.tobytes() for table in scores.logits for row in table.astype(np.float64)}
        if any(row.tobytes() in rows for table in scores.separate.logits for row in table.astype(np.float64)):
            raise _wrong("a record of the shadow models is a record of the target: shadows need models and examples of their own")
