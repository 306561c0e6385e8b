"""A setting of a run in a few values: what it was trained with, and what it is compared by."""

from __future__ import annotations

import math
from typing import Any

from dptrain.evaluation.rows import AUC, tpr_at
from dptrain.evaluation.utility import UTILITIES, metric_of
from dptrain.report.record import Record


def parameters(record: Record, setting: str) -> dict[str, Any]:
    """What a setting was trained with, as the configuration says it. Epsilon is a number, by which
    one can sort: infinity without DP. TensorBoard shows the first five names at once, and capitals
    come first.
    """
    first = next(row for row in record.rows if row.setting == setting)
    config = record.config_of(setting)
    training, defence = config.get("training", {}), config.get("defence", {}).get(first.defence, {})
    statement = record.statements.get(setting)
    chosen = {
        "Clip": statement.clip if statement else None,
        "Defence": first.defence,
        "Epsilon": math.inf if first.epsilon is None else first.epsilon,
        "Learning rate": defence.get("learning_rate"),
        "Noise multiplier": statement.noise_multiplier if statement else None,
        "batch size": training.get("batch_size"),
        "data set": config.get("dataset", {}).get("name"),
        "epochs": training.get("epochs"),
        "model": config.get("model", {}).get("name"),
        "seed": config.get("seed"),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def measures(record: Record, setting: str) -> dict[str, float]:
    """The few numbers by which settings are compared. A refuted proof is none of them."""
    rows = [row for row in record.rows if row.setting == setting]
    measured = {
        f"test {UTILITIES[name].title}": row.estimate
        for name in dict.fromkeys([record.utility, "accuracy"])
        for row in rows
        if row.metric == metric_of(name)
    }
    risks = [row for row in rows if row.attack and row.examples == "all"]
    for metric, title in ((AUC, "AUC"), (tpr_at(0.01), "TPR at 1 % FPR")):
        of = [row.estimate for row in risks if row.metric == metric and row.estimate is not None]
        if of:
            measured[f"strongest {title}"] = max(of)
    proved = [row.ceiling for row in risks if row.metric == AUC and row.ceiling is not None]
    if proved and not any(row.contradicted for row in rows):
        measured["proved ceiling of the AUC"] = min(proved)
    return {name: value for name, value in measured.items() if value is not None}
