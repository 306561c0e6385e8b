"""`dptrain predict`: what an exported model says of new data."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from dptrain import models
from dptrain.config import compose
from dptrain.config.commands import PredictConfig
from dptrain.core.errors import DataError, ReleaseError, first_line, path_error
from dptrain.core.limits import read_npz
from dptrain.core.store import write_atomic
from dptrain.data import table_files
from dptrain.models import layers
from dptrain.release import predict
from dptrain.release.export import RECORD
from dptrain.release.predict import Model

KINDS = {".csv": "csv", ".gz": "csv", ".xlsx": "excel", ".parquet": "parquet"}
"""Ends of names of tables, and how they are read."""


def load(folder: str | Path) -> Model:
    """An exported model. No file of its folder is run: the architecture comes from the layers that
    its record names, or from the registry of models. Raises ReleaseError.
    """
    path = Path(folder)
    if not (path / RECORD).is_file():
        fix = f"there is no {RECORD} in {folder}; give a folder that dptrain train or export wrote"
        raise ReleaseError(fix, "model")
    try:
        record = predict.record_of(path)
        if record["layers"] is not None:
            module = predict.built_of(record["layers"], lambda: layers)
        else:
            of, classes = record["model"], len(record["classes"]) or 1
            module = models.build(of["name"], of["options"], record["shape"], classes)
        return Model(path, module)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        fix = f"{folder} cannot be loaded ({first_line(error)}); export the model again"
        raise ReleaseError(fix, "model") from None


def inputs_of(model: Model, data: str | Path) -> torch.Tensor:
    """New data as a model takes them. Raises ReleaseError for what cannot be read, or does not fit
    the model.
    """
    how = model.record["inputs"]
    try:
        return _rows(model, str(data)) if "numbers" in how else _arrays(model, Path(data))
    except DataError as error:
        raise ReleaseError(error.message, "data") from None
    except ValueError as error:
        raise ReleaseError(f"{error}; give those that the model was trained on", "data") from None


def _rows(model: Model, data: str) -> torch.Tensor:
    kind = KINDS.get(Path(data).suffix)
    if kind is None:
        raise DataError(f"{data} is no table; give one that ends in {', '.join(KINDS)}")
    values = {"dataset.path": data, "dataset.header": model.record["inputs"]["header"]}
    config = compose.load("inspect", [f"dataset={kind}"], values)
    frame = table_files.FRAMES[kind](config.dataset)
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1).astype(object)
    return model.encode(frame.where(frame.notna(), None).to_dict("records"))


def _arrays(model: Model, path: Path) -> torch.Tensor:
    """`inputs` [N, *shape]; bytes are scaled as those that the model was trained on."""
    inputs, shape = read_npz(path, path_error).get("inputs"), model.record["shape"]
    if inputs is None or list(inputs.shape[1:]) != shape:
        there = "no array `inputs`" if inputs is None else f"inputs of shape {inputs.shape[1:]}"
        raise DataError(f"{path} has {there}, and the model takes {shape}")
    how = model.record["inputs"]
    if inputs.dtype == np.uint8 and how:
        return predict.scaled(torch.from_numpy(inputs), how)
    whole = inputs.dtype.kind in "iu" and inputs.dtype != np.uint8
    return torch.from_numpy(inputs.astype(np.int64 if whole else np.float32))


def predictions(config: PredictConfig) -> list[list[str]]:
    """The names of the columns, and a line for each row: the class, and the probability of every
    class. Writes them to a file where one is named. Raises ReleaseError.
    """
    assert config.model is not None
    assert config.data is not None
    model = load(config.model)
    lines = list(model.lines(inputs_of(model, config.data)))
    if config.output is not None:
        write_atomic(Path(config.output), text(lines).encode())
    return lines


def text(lines: list[list[str]]) -> str:
    """As CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
