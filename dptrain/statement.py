"""What stands beside every epsilon. One function makes it; console, JSON, TensorBoard, HTML and parameter files show it."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence

from dptrain import accounting
from dptrain.judge import Row
from dptrain.types import Setting

UNIT = "one example of the pool"


def statement(setting: Setting, noise: str, preprocessing: str, opinions: Mapping[str, float | None]) -> dict[str, str]:
    """The privacy statement of one released model, heading to text, in reading order."""
    ran = setting.mechanism
    if not ran.private:
        return {
            "guarantee": "none: this model was trained without differential privacy",
            "training": f"{setting.recipe.optimiser.upper()}, Poisson batches, q = {ran.sample_rate}, T = {ran.steps} steps, no clipping, no noise",
        }
    delta, recipe = setting.delta, setting.recipe
    views = f", the mean over {recipe.multiplicity} views of an example clipped as one" if recipe.multiplicity > 1 else ""
    released = "one model, the moving average of its iterates" if recipe.average else "one model"
    spent, curve = accounting.epsilon(ran, delta), accounting.trade_off(ran)
    second = ", ".join(
        f"Opacus {name} {value:.3f}" if value is not None else f"Opacus {name} gave no number" for name, value in opinions.items()
    )
    source = {
        "os": "keys from the operating system, one a model, deleted when the model is finished",
        "seeded": "keys derived from the seed: whoever knows the seed can subtract the noise, and no epsilon holds against them",
    }[noise]
    return {
        "guarantee": f"({_up(spent, 3)}, {delta:g})-differential privacy, an upper bound, for each model by itself (target epsilon {setting.epsilon:g}; delta x n = {delta * ran.public_n:.3g})",
        "neighbours": f"{ran.neighbouring}; the unit is {UNIT}; n = {ran.public_n} is public (half the pool) and never counted from the data",
        "mechanism": f"DP-SGD: noise multiplier {ran.noise_multiplier:.4f}, clip {ran.clip:g} ({recipe.clipping}){views}, q = {ran.sample_rate}, T = {ran.steps}, divisor {ran.divisor}, {ran.sampling} sampling as run",
        "accountant": f"PLD, dp-accounting {importlib.metadata.version('dp-accounting')}; second opinions: {second}; without amplification by sampling: {_up(accounting.unamplified_epsilon(ran, delta), 3)}",
        "ceiling": f"any attack on one example: TPR at most {_up(curve.max_tpr(0.001), 4)} at FPR .1 %, {_up(curve.max_tpr(0.01), 4)} at 1 %; advantage at most {_up(curve.max_advantage, 3)}; AUC at most {_up(curve.max_auc, 3)}",
        "released": f"{released}. The other models of the fleet, losses, curves and scores are the evaluator's and are not covered; publishing k models together composes",
        "tuning": f"hyperparameters given by the configuration; what their choice cost is not in this epsilon; {preprocessing}",
        "randomness": f"AES-256-CTR keystream, {source}; floating point, not hardened against precision or timing attacks",
        "measured": "a lower bound of epsilon, by the evaluator after the training, stands in the report; a weak attack proves nothing",
    }


NAMED = ("lira", "rmia", "loss")
"""Whose lower bound the statement gives: the first of these that ran, or else the first attack. Named beforehand, since the highest of
many bounds does not hold with the confidence of each."""


def measured(name: str, rows: Sequence[Row]) -> dict[str, str]:
    """The entry of the statement on the lower bound of epsilon, once it is measured: on the canaries, if there are any."""
    own = [row for row in rows if row.setting == name and row.metric == "epsilon_one_run" and row.estimate is not None]
    if not own:
        return {"measured": "no lower bound of epsilon; attack results stand beside their ceilings, and a weak attack proves nothing"}
    worst = [row for row in own if row.examples == "canaries"] or own
    by_name = {row.attack: row for row in worst}
    row = next((by_name[attack] for attack in NAMED if attack in by_name), worst[0])
    where = " on the canaries" if row.examples == "canaries" else ""
    value = math.floor((row.estimate or 0.0) * 1000) / 1000
    return {"measured": f"epsilon at least {value:.3f} by {row.attack}{where}: {row.note}. A low value is no guarantee"}


def _up(value: float, digits: int) -> str:
    """An upper bound, rounded upwards: rounded to the nearest it would not be one."""
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"


def as_lines(parts: Mapping[str, str]) -> list[str]:
    return [f"{heading}: {text}" for heading, text in parts.items()]
