"""Runs of MLflow and of Weights & Biases: one of the sweep, and one of each setting under it. Both
are written to disk and ask nothing of a network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dptrain.report.reading import reading
from dptrain.report.record import Record
from dptrain.report.settings import measures, parameters

UNCOVERED = (
    "Losses, curves, scores and metrics are the evaluator's: no epsilon of this run covers them."
)


def mlflow(folder: Path, record: Record, artefacts: Path) -> None:
    """An MLflow file store in `folder`; `mlflow ui --backend-store-uri FOLDER` shows it. artefacts:
    the run's own folder, whose report.html goes with it.
    """
    # MLflow 3 asks whoever goes on with a file store to say so, and reports what is used of it.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=folder.resolve().as_uri())
    known = client.get_experiment_by_name(record.name)
    experiment = known.experiment_id if known else client.create_experiment(record.name)
    said = {MLFLOW_RUN_NAME: record.name, MLFLOW_RUN_NOTE: _said(record)}
    parent = client.create_run(experiment, tags=said).info.run_id
    client.log_artifact(parent, str(artefacts / "report.html"))
    client.set_terminated(parent)
    for setting in record.settings:
        tags = {MLFLOW_RUN_NAME: setting, MLFLOW_PARENT_RUN_ID: parent}
        run = client.create_run(experiment, tags=tags).info.run_id
        chosen = [
            Param(_name(name), str(value)) for name, value in parameters(record, setting).items()
        ]
        measured = [
            Metric(_name(name), value, 0, step) for name, value, step in _measured(record, setting)
        ]
        client.log_batch(run, metrics=measured, params=chosen)
        client.set_terminated(run)


def wandb(folder: Path, record: Record, artefacts: Path) -> None:
    """Offline runs in `folder`, of one group; `wandb sync` takes them to a server."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # which would go out even of offline runs
    import wandb as service

    folder.mkdir(parents=True, exist_ok=True)
    settings = service.Settings(
        mode="offline",
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    of_group: dict[str, Any] = {"project": "dptrain", "group": record.name, "dir": str(folder)}

    def start(name: str, config: Mapping[str, Any]) -> Any:
        return service.init(
            **of_group,
            name=name,
            notes=_said(record),
            config=dict(config),
            settings=settings,
            reinit="create_new",
        )

    with start(record.name, record.config) as run:
        run.log_artifact(_report(service, artefacts))
    for setting in record.settings:
        with start(setting, parameters(record, setting)) as run:
            by_step: dict[int, dict[str, float]] = {}
            for name, value, step in _measured(record, setting):
                by_step.setdefault(step, {})[name] = value
            for step, values in sorted(by_step.items()):
                run.log(values, step=step)


def _said(record: Record) -> str:
    """What the result says, and of what it is."""
    return "\n\n".join([*reading(record), UNCOVERED])


def _report(service: Any, artefacts: Path) -> Any:
    artefact = service.Artifact("report", type="report")
    artefact.add_file(str(artefacts / "report.html"))
    return artefact


def _measured(record: Record, setting: str) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of the training curve, and of what settings are compared by."""
    for point in record.training.get(setting, []):
        for name, value in point.items():
            if name != "step" and value is not None and math.isfinite(value):
                yield f"training/{name}", value, int(point["step"] or 0)
    last = [int(point["step"] or 0) for point in record.training.get(setting, [])]
    for name, value in measures(record, setting).items():
        yield name, value, max(last, default=0)


def _name(text: str) -> str:
    """As MLflow wants names: letters, digits, and a few signs."""
    return "".join(each if each.isalnum() or each in "_-. /" else "_" for each in text)
