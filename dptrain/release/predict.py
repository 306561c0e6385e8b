"""Predictions of an exported model. This file needs torch and safetensors and nothing else, and a
copy of it lies in every exported folder.

    python predict.py new.csv > predictions.csv

From Python: `model = Model("folder"); model.probabilities(model.encode(rows))`, where every row
maps the names of columns to their values.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

LAYERS: dict[str, tuple[str, ...]] = {
    "Flatten": ("start_dim", "end_dim"),
    "Linear": ("in_features", "out_features", "bias"),
    "Conv2d": (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding"),
        *("dilation", "groups", "bias", "padding_mode"),
    ),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "AdaptiveAvgPool2d": ("output_size",),
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "Tanh": (),
    "ReLU": (),
    "GELU": ("approximate",),
    "Sigmoid": (),
    "Identity": (),
}
"""Layers of torch.nn that an exported model may have, with their options."""
OURS = {
    "WSConv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "bias"),
    "ResidualBlock": ("inside", "outside", "stride", "groups"),
}
"""Layers of layers.py, which then lies beside this file."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
BLOCK = 512
"""Rows a forward pass."""
DELIMITERS = ",;\t|"


class Model:
    """An exported model, from its folder. module: its architecture, where the folder cannot say it
    since its layers are not those of torch.nn.

    Raises ValueError where the architecture is missing.
    """

    def __init__(self, folder: str | Path, module: torch.nn.Module | None = None):
        path = Path(folder)
        self.record = record_of(path)
        layers = self.record["layers"]
        if module is None and layers is None:
            raise ValueError(f"{path} does not hold its architecture; give the module")
        built = built_of(layers, lambda: _beside(path)) if module is None else module
        built.load_state_dict(load_file(path / "parameters.safetensors"))
        # In float64, so that rounding, and with it the other rows, shows in no answer.
        self.dtype = torch.float64 if layers is not None else torch.float32
        self.module = built.to(self.dtype).train(False)

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> torch.Tensor:
        """Rows of a table as the model was given them, float32 [N, columns]. Raises ValueError for
        a column that is missing.
        """
        how = self.record["inputs"]
        parts = [*how["numbers"], *how["categories"]]
        encoded = []
        for row in rows:
            if lacking := [part["name"] for part in parts if part["name"] not in row]:
                raise ValueError(f"the table has no column {', '.join(map(repr, lacking))}")
            encoded.append(_encoded(row, how))
        return torch.tensor(encoded, dtype=torch.float32).view(len(encoded), *self.record["shape"])

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the model gives for inputs [N, *shape], [N, outputs]: logits of the classes."""
        whole = inputs if not inputs.is_floating_point() else inputs.to(self.dtype)
        if not len(whole):
            return torch.zeros(0, len(self.record["classes"]) or 1)
        return torch.cat([self.module(block) for block in whole.split(BLOCK)])

    def probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        """Of every class, float32 [N, classes]. Raises ValueError for a regression."""
        if self.record["task"] == "regression":
            raise ValueError("a regression has no classes; use model.values(model.outputs(inputs))")
        return self.outputs(inputs).double().softmax(-1).float()

    def decisions(self, inputs: torch.Tensor) -> list[str]:
        """The class that the model decides for, of each input: that of the highest probability or,
        where a threshold was fitted for two classes, the second from those log-odds on. The number
        that a regression predicts, as text.
        """
        outputs, threshold = self.outputs(inputs), self.record["threshold"]
        if self.record["task"] == "regression":
            return [f"{value:.9g}" for value in self.values(outputs).tolist()]
        if threshold is None:
            chosen = outputs.argmax(-1).tolist()
        else:
            chosen = (outputs[:, 1] - outputs[:, 0] >= threshold).long().tolist()
        return [self.record["classes"][each] for each in chosen]

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """The numbers of a regression, float32 [N], from its outputs [N, 1] between -1 and 1."""
        low, high = self.record["inputs"]["bounds"]
        scaled = outputs[:, 0].double().clamp(-1, 1)
        values: torch.Tensor = low + (scaled + 1) / 2 * (high - low)
        return values.float()

    def lines(self, inputs: torch.Tensor) -> Iterator[list[str]]:
        """A table of predictions: the names of its columns, and a line for each input."""
        yield ["prediction", *(f"p_{name}" for name in self.record["classes"])]
        if self.record["task"] == "regression":
            yield from ([decided] for decided in self.decisions(inputs))
            return
        for decided, row in zip(
            self.decisions(inputs), self.probabilities(inputs).tolist(), strict=True
        ):
            yield [decided, *(f"{value:.6f}" for value in row)]


def record_of(folder: Path) -> dict[str, Any]:
    """What the folder of a model says of it."""
    record: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return record


def scaled(pixels: torch.Tensor, how: Mapping[str, Any]) -> torch.Tensor:
    """Bytes [N, channels, ...] by the mean and the deviation of each channel, float32."""
    each = (-1, *[1] * (pixels.dim() - 2))
    mean, deviation = (torch.tensor(how[name]).view(each) for name in ("mean", "deviation"))
    return (pixels.float() / 255 - mean) / deviation


def built_of(layers: Sequence[Mapping[str, Any]], ours: Callable[[], Any]) -> torch.nn.Module:
    """The module of a list of layers, each with its options. ours: gives the module that holds
    those of OURS. Raises ValueError for a layer that is in neither list.
    """
    parts = []
    for layer in layers:
        name, options = layer["layer"], layer["options"]
        known = {**LAYERS, **OURS}
        if name not in known:
            raise ValueError(f"unknown layer {name!r}")
        if set(options) != set(known[name]):
            raise ValueError(f"options of {name} are {', '.join(known[name])}")
        place = ours() if name in OURS else torch.nn
        parts.append(getattr(place, name)(**options))
    return torch.nn.Sequential(*parts)


def _beside(folder: Path) -> ModuleType:
    """layers.py of an exported folder."""
    spec = importlib.util.spec_from_file_location("layers", folder / "layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _encoded(row: Mapping[str, Any], how: Mapping[str, Any]) -> list[float]:
    """A row as the numbers that the model takes: columns of numbers, whether they have a gap,
    categories.
    """
    values: list[float] = []
    gaps = dict.fromkeys(how["gaps"], 0.0)
    for part in how["numbers"]:
        value = _present(row[part["name"]], how["missing"])
        number = _place(value, part) if "order" in part else _number(value)
        if number is None:
            values.append(0.0)
            gaps |= {part["name"]: 1.0} if part["name"] in gaps else {}
        else:
            scaled = (number - part["mean"]) / part["deviation"]
            values.append(min(max(scaled, -how["cut"]), how["cut"]))
    values += gaps.values()
    for part in how["categories"]:
        text = _text(_present(row[part["name"]], how["missing"]), part["numeric"])
        known = [float(text == each) for each in part["values"]]
        values += [*known, float(not any(known))] if part["others"] else known
    return values


def _present(value: Any, missing: Sequence[str]) -> Any:
    """A value without spaces around it; None for what stands for nothing."""
    if isinstance(value, str):
        value = value.strip()
        return None if value in missing else value
    return None if value is None or value != value else value


def _number(value: Any) -> float | None:
    """None for what is no finite number."""
    if isinstance(value, str):
        value = float(value) if NUMBER.fullmatch(value) else None
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _text(value: Any, numeric: bool) -> str:
    """A category. A whole number is one with or without a decimal point."""
    if value is None:
        return "missing"
    if numeric and isinstance(value, str) and value.lstrip("+-").isdecimal():
        return str(int(value))
    number = _number(value) if numeric or isinstance(value, float) else None
    if number is None or isinstance(value, int):
        return str(value)
    return f"{number:.0f}" if number.is_integer() else str(number)


def _place(value: Any, part: Mapping[str, Any]) -> float | None:
    """The place of a value in an order, from 0."""
    text = None if value is None else _text(value, part["numeric"])
    return float(part["order"].index(text)) if text in part["order"] else None


def rows_of(path: Path, header: bool) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, packed or not; without a header the columns are called c0, c1, ..."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(DELIMITERS, key=first.count)
        cells = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        names = [name.strip() for name in next(cells, [])] if header else []
        for row in cells:
            given = names if header else [f"c{number}" for number in range(len(row))]
            if row:
                yield dict(itertools.zip_longest(given, row[: len(given)], fillvalue=""))


def main(arguments: Sequence[str]) -> int:
    """Print a line for each row of a CSV file."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    model = Model(Path(__file__).parent)
    if "numbers" not in model.record["inputs"]:
        print("this model takes tensors; use Model.probabilities", file=sys.stderr)
        return 2
    inputs = model.encode(rows_of(Path(arguments[0]), model.record["inputs"]["header"]))
    csv.writer(sys.stdout, lineterminator="\n").writerows(model.lines(inputs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
