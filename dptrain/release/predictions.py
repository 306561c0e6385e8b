"""`dptrain predict`: what an exported model says of new data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dptrain import models
from dptrain.config import compose
from dptrain.config.commands import PredictConfig
from dptrain.core.errors import DataError, ReleaseError, first_line, path_error
from dptrain.core.limits import read_npz
from dptrain.core.store import write_atomic
from dptrain.data import table_files
from dptrain.models import layers
from dptrain.release import predict
from dptrain.release.export import PARAMETERS, RECORD
from dptrain.release.predict import Model

KINDS = {".xlsx": "excel", ".parquet": "parquet"}
"""Ends of names of tables, and how they are read; all others are CSV."""
KEYS = {"layers", "model", "classes", "inputs", "shape", "threshold", "task", "tokens"}
"""What the record of a model holds at least."""
MOST_LAYERS, MOST_WINDOW = 1000, 512


def load(folder: str | Path, module: nn.Module | None = None) -> Model:
    """An exported model. No file of its folder is run: the architecture comes from the layers that
    its record names, from the registry of models or, where neither has it, from `module`. Raises
    ReleaseError.
    """
    path = Path(folder)
    if not (path / RECORD).is_file():
        fix = f"there is no {RECORD} in {folder}; give a folder that dptrain train or export wrote"
        raise ReleaseError(fix, "model")
    try:
        record = predict.record_of(path)
        if not isinstance(record, dict) or not record.keys() >= KEYS:
            raise ValueError("its record is not whole")
        return Model(path, module or _module(record, path / PARAMETERS))
    except (
        *(ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError),
        *(ArithmeticError, AttributeError, MemoryError),
    ) as error:
        fix = f"{folder} cannot be loaded ({first_line(error)}); export the model again"
        raise ReleaseError(fix, "model") from None


def _module(record: Mapping[str, Any], parameters: Path) -> nn.Module:
    """The architecture of a record. Nothing is allocated before its shapes are those of the file,
    which nobody can inflate. Raises ValueError.
    """

    def built() -> nn.Module:
        if record["layers"] is not None:
            return predict.built_of(record["layers"], lambda: layers)
        of, classes = record["model"], len(record["classes"]) or 1
        return models.build(of["name"], of["options"], record["shape"], classes)

    if record["layers"] is not None:
        _require_small(record["layers"])
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in built().state_dict().items()}
    with safe_open(parameters, framework="pt") as file:
        names = list(file.keys())
        there = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if there != wanted:
        raise ValueError("its parameters are not those of its architecture")
    return built()


def _require_small(chain: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for more layers, or larger windows, than any model of ours has."""
    if len(chain) > MOST_LAYERS:
        raise ValueError(f"it has {len(chain):,} layers")
    for layer in chain:
        for name, value in layer["options"].items():
            sizes = value if isinstance(value, list) else [value]
            wide = name in (
                "in_features",
                "out_features",
                "in_channels",
                "out_channels",
                "inside",
                "outside",
                "num_channels",
                "num_groups",
                "normalized_shape",
                "end_dim",
            )
            if not wide and any(isinstance(size, int) and size > MOST_WINDOW for size in sizes):
                raise ValueError(f"its {name} is {value}")


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
    kind = KINDS.get(Path(data).suffix.lower(), "csv")
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
    if inputs.dtype == np.uint8:
        if "mean" not in how:
            raise DataError(f"{path} holds bytes, and the model was trained on other numbers")
        return predict.scaled(torch.from_numpy(inputs), how)
    return torch.from_numpy(inputs.astype(np.int64 if model.record["tokens"] else np.float32))


def predictions(config: PredictConfig) -> list[list[str]]:
    """The names of the columns, and a line for each row: the class, and the probability of every
    class. Writes them to a file where one is named. Raises ReleaseError.
    """
    assert config.model is not None
    assert config.data is not None
    model = load(config.model)
    lines = list(model.lines(inputs_of(model, config.data)))
    if config.output is not None:
        try:
            write_atomic(Path(config.output), text(lines).encode())
        except OSError as error:
            fix = f"cannot be written to ({error.strerror}); choose another file"
            raise ReleaseError(f"{config.output} {fix}", "output") from None
    return lines


def text(lines: list[list[str]]) -> str:
    """As CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
