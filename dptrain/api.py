"""The commands as functions. Each takes what its command takes, as text `key=value` or as keywords,
and returns a plain object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dptrain.config import compose
from dptrain.config.fields import require
from dptrain.config.keys import named
from dptrain.data import datasets, inspection
from dptrain.data.inspection import Inspection
from dptrain.pipeline import foreign_scores
from dptrain.privacy import calibration
from dptrain.privacy.calibration import Answer
from dptrain.report import advice
from dptrain.report.advice import Advice

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from dptrain.pipeline.estimate import Estimate
    from dptrain.pipeline.outputs import Result
    from dptrain.release.final import Final
    from dptrain.release.predict import Model
    from dptrain.release.tune import Tuned


def sweep(
    *overrides: str, progress: bool = False, frame: pd.DataFrame | None = None, **keys: Any
) -> Result:
    """Run or resume a sweep: `sweep("experiment=quickstart", epsilons=[inf, 8], **{"dataset.pool":
    1000})`, or `sweep(frame=table, **{"dataset.target": "income"})` on a table of this program.

    Returns folder, rows, statements, trained, to_frame(). Raises ConfigError for a wrong
    configuration, and Interrupted of fleet.executors.base, with all work saved, at Ctrl-C.
    """
    from dptrain.pipeline import run  # loads torch

    chosen = compose.load("sweep", *_with_frame(frame, overrides, keys))
    return run.sweep(chosen, show_progress=progress)


def _with_frame(
    frame: pd.DataFrame | None, overrides: Sequence[str], keys: Mapping[str, Any]
) -> tuple[Sequence[str], Mapping[str, Any]]:
    """Overrides and keys by which a command reads a frame of this program."""
    if frame is None:
        return overrides, keys
    of_text = [text.partition("=")[2] for text in overrides if text.startswith("dataset.name=")]
    name = str(keys.get("dataset.name", of_text[-1] if of_text else datasets.FRAME))
    with named():
        datasets.hold(name, frame)
    return ["dataset=csv", *overrides], {"dataset.name": name, **keys}


def train(
    *overrides: str, progress: bool = False, frame: pd.DataFrame | None = None, **keys: Any
) -> Final:
    """One model of one setting on all rows, to be given away: `train(run="results/quickstart",
    setting="dpsgd-8").model` is its folder. frame: a table of this program, which a run that read
    one has to be given again. Raises ConfigError, and Interrupted as sweep does.
    """
    from dptrain.release import train  # loads torch

    texts: Sequence[str] = overrides
    values: Mapping[str, Any] = keys
    of_text = [text.partition("=")[2] for text in overrides if text.startswith("run=")]
    run = keys.get("run", of_text[-1] if of_text else None)
    if frame is not None and run is not None:
        name = compose.recorded(str(run))["dataset"]["name"]
        ours = name in datasets.names() and name not in datasets.HELD
        require(not ours, "frame", f"{run} read the data set {name}; leave the frame out")
        with named():
            datasets.hold(name, frame)
    else:
        texts, values = _with_frame(frame, overrides, keys)
    return train.train(compose.load("train", texts, values), show_progress=progress)


def tune(*overrides: str, progress: bool = False, frame: pd.DataFrame | None = None) -> Tuned:
    """Train candidates a random number of times and give the best away: `tune("epsilon=4",
    "defence.dpsgd.learning_rate=1,2,4").final.model`. frame: a table of this program. Raises
    ConfigError, and Interrupted as sweep does.
    """
    from dptrain.config import multirun
    from dptrain.release import tune  # loads torch

    given, keys = _with_frame(frame, overrides, {})
    named_so = [f"{key}={value}" for key, value in keys.items()]
    return tune.tune(multirun.candidates([*given, *named_so]), show_progress=progress)


def export(run: str | Path, setting: str, *overrides: str, **keys: Any) -> Path:
    """The folder of a model that a sweep trained. Raises ConfigError."""
    from dptrain.release import export  # loads torch

    given = {"run": str(run), "setting": setting, **keys}
    with named():
        return export.export(compose.load("export", overrides, given))


def load(folder: str | Path, module: nn.Module | None = None) -> Model:
    """An exported model: `load(folder).probabilities(inputs)`, or of a regression
    `model.values(model.outputs(inputs))`. module: its architecture, where the folder cannot say it.
    Raises ConfigError.
    """
    from dptrain.release import predictions  # loads torch

    with named():
        return predictions.load(folder, module)


def estimate(*overrides: str, **keys: Any) -> Estimate:
    """What the same sweep would train, spend and take: models, steps, noise, epsilon of each
    setting and of all, seconds, memory, disk. Raises ConfigError, also where it cannot fit.
    """
    from dptrain.pipeline import run  # loads torch

    return run.forecast(compose.load("sweep", overrides, keys))


def attack(
    scores: str | Path | Mapping[str, Any], *overrides: str, **keys: Any
) -> foreign_scores.Result:
    """Attack anyone's models: a file, or the arrays that the file would hold (`dptrain attack
    --help` lists them).

    Returns rows, exposed, to_frame(). Raises ConfigError.
    """
    in_memory = isinstance(scores, Mapping)
    file = "arrays in memory" if in_memory else str(scores)
    chosen = compose.load("attack", overrides, {"scores": file, **keys})
    if not isinstance(scores, Mapping):
        return foreign_scores.evaluate_file(chosen)
    arrays = {name: np.asarray(array) for name, array in scores.items()}
    return foreign_scores.evaluate_file(chosen, arrays)


def calibrate(*overrides: str, **keys: Any) -> Answer:
    """The noise for a target: `calibrate(epsilon=2, n=60000, batch_size=256, epochs=20)`. Raises
    ConfigError.
    """
    with named():
        return calibration.answer(compose.load("calibrate", overrides, keys))


def advise(run: str | Path, *overrides: str, **keys: Any) -> Advice:
    """Which setting of a finished sweep meets a demand: `advise("results/quickstart",
    max_auc=0.6)`. Raises ConfigError.
    """
    with named():
        return advice.advise(compose.load("advise", overrides, {"run": str(run), **keys}))


def inspect(
    table: str | Path | pd.DataFrame, *overrides: str, target: str | None = None, **keys: Any
) -> Inspection:
    """What a table holds, before anything is trained on it: `inspect("people.csv",
    target="income").columns`. A name that ends in .xlsx or .parquet is read as that. Raises
    ConfigError.
    """
    given = {"dataset.target": target, **keys}
    if isinstance(table, str | Path):
        kind = {".xlsx": "excel", ".parquet": "parquet"}.get(Path(table).suffix, "csv")
        chosen, given = [f"dataset={kind}", *overrides], {"dataset.path": str(table), **given}
        configuration = compose.load("inspect", chosen, given)
    else:
        configuration = compose.load("inspect", *_with_frame(table, overrides, given))
    with named():
        return inspection.inspect(configuration)
