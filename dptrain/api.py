"""The commands as functions. Each takes what its command takes, as text `key=value` or as keywords, and returns a plain object."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dptrain import advice, calibration, config, foreign
from dptrain.advice import Advice
from dptrain.calibration import Answer


def sweep(*overrides: str, progress: bool = False, **keys: Any) -> Any:
    """Run or resume a sweep: `sweep("experiment=quickstart", epsilons=[inf, 8], **{"dataset.pool": 1000})`.

    Returns a pipeline.Result: folder, rows, statements, trained, to_frame(). Raises ConfigError for a wrong configuration, and
    executor.Interrupted, with all work saved, at Ctrl-C.
    """
    from dptrain import pipeline  # loads torch

    return pipeline.sweep(config.load("sweep", [*overrides, *_overrides(keys)]), show_progress=progress)


def attack(scores: str | Path | Mapping[str, Any], *overrides: str, **keys: Any) -> foreign.Result:
    """Judge anyone's models: a file, or the arrays that the file would hold (`dptrain attack --help` lists them).

    Returns a foreign.Result: rows, exposed, to_frame(). Raises ConfigError.
    """
    file = "arrays in memory" if isinstance(scores, Mapping) else str(scores)
    chosen = config.load_attack([*overrides, *_overrides({"scores": file, **keys})])
    return foreign.judge_file(chosen, {name: np.asarray(array) for name, array in scores.items()} if isinstance(scores, Mapping) else None)


def calibrate(*overrides: str, **keys: Any) -> Answer:
    """The noise for a target: `calibrate(epsilon=2, n=60000, batch_size=256, epochs=20)`. Raises ConfigError."""
    return calibration.answer(config.load_calibrate([*overrides, *_overrides(keys)]))


def advise(run: str | Path, *overrides: str, **keys: Any) -> Advice:
    """Which setting of a finished sweep meets a demand: `advise("results/quickstart", max_auc=0.6)`. Raises ConfigError."""
    return advice.advise(config.load_advise([*overrides, *_overrides({"run": str(run), **keys})]))


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in keys.items()]


def _text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    if isinstance(value, int | float | np.integer | np.floating):
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) and text.lower() not in ("null", "true", "false", "inf", "nan")
    return text if plain else "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (found[2] and "\\'"), text) + "'"
