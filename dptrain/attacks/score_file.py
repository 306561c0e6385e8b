"""Anyone's scores from a file: .npz or .csv to Scores. Everything that does not fit is answered in
one line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Num, Shaped

from dptrain.attacks import saturation
from dptrain.attacks.leaks import refuse_leaks, require_both
from dptrain.attacks.scores import EXTRAS, Scores
from dptrain.core.errors import ScoresError
from dptrain.core.limits import read_npz

GIVEN = ("logits", "probabilities", "loss", "confidence")
"""What a model may have said, of which a file holds one."""
KNOWN = {*GIVEN, "labels", "membership", "targets", "ids", "inputs", *EXTRAS}
KNOWN |= {f"population_{name}" for name in (*GIVEN, "labels", "inputs")}
KNOWN |= {
    f"{part}_{name}" for part in ("target", "shadow") for name in (*GIVEN, "labels", "member")
}

LARGEST = 1e9
"""Beyond it nothing is a logit or a loss, and its square is no number for a classifier."""

Arrays = Mapping[str, np.ndarray]
Value = TypeVar("Value")


def read(path: str) -> tuple[Scores, np.ndarray]:
    """Scores, and the ids [N] of their examples. Raises ScoresError."""
    file = Path(path)
    if not file.is_file():
        raise _wrong(f"no such file: {path}")
    if file.suffix not in (".npz", ".csv"):
        raise _wrong(f"{path} is neither .npz nor .csv")
    try:
        arrays = _npz(file) if file.suffix == ".npz" else _csv(file)
    except ScoresError:
        raise
    except ValueError as error:
        raise _wrong(f"cannot use {path}: {' '.join(str(error).split())}") from None
    return from_arrays(arrays, path)


def from_arrays(arrays: Arrays, path: str = "the arrays") -> tuple[Scores, np.ndarray]:
    """The same of what a file would hold. Raises ScoresError."""
    try:
        _check_plain(arrays)
        scores = (
            _separate(arrays)
            if any(name.startswith("target_") for name in arrays)
            else _fleet(arrays)
        )
    except ScoresError:
        raise
    except ValueError as error:
        raise _wrong(f"cannot use {path}: {' '.join(str(error).split())}") from None
    examples = len(scores.labels)
    ids = arrays.get("ids", np.arange(examples))
    if ids.shape != (examples,) or len(np.unique(ids)) != examples:
        raise _wrong(
            f"ids must be {examples} different values, got {len(np.unique(ids))} of "
            f"shape {ids.shape}"
        )
    refuse_leaks(scores)
    return scores, ids


def _wrong(message: str) -> ScoresError:
    return ScoresError(message)


def _npz(path: Path) -> Arrays:
    arrays = read_npz(path, ScoresError)
    for name in arrays:
        if name not in KNOWN:
            raise _wrong(f"unknown array {name!r}; the arrays are {', '.join(sorted(KNOWN))}")
    return arrays


def _need(arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise _wrong(f"no array {name!r}; the file has {', '.join(sorted(arrays))}")
    return arrays[name]


def _real(array: Shaped[np.ndarray, " ..."]) -> bool:
    return array.dtype.kind in "biuf"


def _check_plain(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if 0 in array.shape and name != "targets":
            raise _wrong(f"{name} is empty, of shape {array.shape}")
        if name in ("inputs", "population_inputs", *EXTRAS) and not (
            _real(array) and array.ndim and (np.abs(array) < 1e30).all()
        ):
            raise _wrong(f"{name} must be finite real numbers that float32 holds")


def _binary(array: Shaped[np.ndarray, " ..."], name: str) -> np.ndarray:
    if not _real(array) or not np.isin(array, (0, 1)).all():
        raise _wrong(f"{name} must hold 0 and 1 only (1: the model trained on the example)")
    return array.astype(bool)


def _labels(arrays: Arrays, name: str, examples: int, needed: bool) -> np.ndarray:
    """int [N]; without classes all are one."""
    if name not in arrays and not needed:
        return np.zeros(examples, dtype=np.int64)
    labels = _need(arrays, name)
    if (
        labels.ndim != 1
        or not _real(labels)
        or not (np.abs(labels.astype(float)) < 2**31).all()
        or (labels != np.round(labels)).any()
    ):
        raise _wrong(
            f"{name} must be whole numbers [{examples}], got {labels.dtype} {labels.shape}"
        )
    return labels.astype(np.int64)


def _said(arrays: Arrays, prefix: str, models: int | None = None) -> tuple[str, np.ndarray]:
    """What the file has under this prefix, one of GIVEN, and its values [M, N, Q, C] or [M, N, Q];
    M is 1 where an axis is missing.
    """
    names = [f"{prefix}{name}" for name in GIVEN if f"{prefix}{name}" in arrays]
    if len(names) != 1:
        choice = ", ".join(f"{prefix}{name}" for name in GIVEN)
        there = ", ".join(names) or ", ".join(sorted(arrays)) or "nothing"
        raise _wrong(f"give exactly one of {choice}; the file has {there}")
    name = names[0]
    _require_finite(name, arrays[name])
    values = _shaped(name, arrays[name])
    if models is not None and len(values) != models:
        raise _wrong(f"{name} must hold {models} models, as the rest does, got {len(values)}")
    _require_range(name, values)
    return name.removeprefix(prefix), values


def _require_finite(name: str, values: Shaped[np.ndarray, " ..."]) -> None:
    if not _real(values):
        raise _wrong(f"{name} must be real numbers, got {values.dtype}")
    if not np.isfinite(values).all():
        place = ", ".join(str(index) for index in np.argwhere(~np.isfinite(values))[0])
        why = "a model diverged, or a logarithm of 0 was taken"
        raise _wrong(f"{name} holds NaN or infinity, first at [{place}]; {why}")


def _of_all_classes(name: str) -> bool:
    return name.endswith(("logits", "probabilities"))


def _shaped(name: str, values: Shaped[np.ndarray, " ..."]) -> np.ndarray:
    """Values with all axes."""
    wide = _of_all_classes(name)
    least = 2 if wide else 1
    if not least <= values.ndim <= least + 2:
        shapes = "[M, N, C], [M, N, Q, C] or [N, C]" if wide else "[M, N], [M, N, Q] or [N]"
        raise _wrong(f"{name} must be {shapes}, got shape {values.shape}")
    if values.ndim == least:
        values = values[None]
    return values[:, :, None] if values.ndim == least + 1 else values


def _require_range(name: str, values: Num[np.ndarray, "M N ..."]) -> None:
    wide = _of_all_classes(name)
    if (largest := np.abs(values.astype(np.float64)).max()) > LARGEST:
        raise _wrong(f"{name} must lie within +-{LARGEST:g}, got {largest:g}; a model diverged")
    if wide and values.shape[-1] < 2:
        count = values.shape[-1]
        raise _wrong(f"{name} must have two classes or more, got {count}; give the loss instead")
    if name.endswith(("probabilities", "confidence")):
        if values.min(initial=0) < 0 or values.max(initial=0) > 1 + 1e-6:
            raise _wrong(f"{name} must lie in 0..1, got {values.min():g}..{values.max():g}")
        if wide and np.abs(values.sum(axis=-1) - 1).max(initial=0) > 1e-3:
            raise _wrong(f"{name} must add up to 1 over classes; are these logits?")
    elif not wide and values.min(initial=0) < 0:
        why = "a loss is -log of the probability of the true class"
        raise _wrong(f"{name} must be 0 or more, got {values.min():g}; {why}")


def _ends(
    kind: str, values: Num[np.ndarray, " ..."], labels: Int[np.ndarray, " N"]
) -> saturation.Ends:
    """The file's own resolution at both ends."""
    if kind == "probabilities":
        return saturation.ends(*saturation.split(values, labels))
    wide = values.astype(np.float64)
    return (
        saturation.ends(wide, 1 - wide)
        if kind == "confidence"
        else saturation.ends(np.exp(-wide), wide)
    )


def _scores(
    kind: str,
    values: Num[np.ndarray, " ..."],
    labels: Int[np.ndarray, " N"],
    member: Bool[np.ndarray, "M N"],
    ends: saturation.Ends | None = None,
    **more: Any,
) -> Scores:
    """Scores of what was said; ends: what stands for rounded probabilities, by default as these
    values have it.
    """
    if kind == "logits":
        return Scores(values, labels, member, **more)
    ends = ends or _ends(kind, values, labels)
    if kind == "probabilities":
        true, rest = saturation.split(values, labels)
        share = float(((true == 0) | (rest == 0)).mean())
        return Scores(
            saturation.logits(values, labels, ends), labels, member, saturated=share, **more
        )
    share = (
        float(((values == 0) | (values == 1)).mean())
        if kind == "confidence"
        else float((values == 0).mean())
    )
    loss = (
        saturation.loss(values, ends)
        if kind == "confidence"
        else np.maximum(values.astype(np.float64), ends.high)
    )
    return Scores(None, labels, member, loss, saturated=share, **more)


def _table(arrays: Arrays, prefix: str, member: str, labels: str, **more: Any) -> Scores:
    kind, values = _said(arrays, prefix)
    models, examples = values.shape[:2]
    membership = _binary(_need(arrays, member), member)
    membership = membership[None] if membership.ndim == 1 else membership
    if membership.shape != (models, examples):
        raise _wrong(
            f"{member} must be [{models}, {examples}] like the scores, got {membership.shape}"
        )
    return _scores(kind, values, _known_labels(arrays, labels, kind, values), membership, **more)


def _known_labels(
    arrays: Arrays, name: str, kind: str, values: Num[np.ndarray, " ..."]
) -> np.ndarray:
    """Labels of the examples of some values, which lie within their classes."""
    examples, wide = values.shape[1], kind in ("logits", "probabilities")
    known = _labels(arrays, name, examples, wide)
    if len(known) != examples:
        raise _wrong(f"{name} must be [{examples}], got {known.shape}")
    if examples and (known.min() < 0 or (wide and known.max() >= values.shape[-1])):
        raise _wrong(
            f"{name} must lie in 0..{values.shape[-1] - 1 if wide else 'C-1'}, got "
            f"{known.min()}..{known.max()}"
        )
    return known


def _fleet(arrays: Arrays) -> Scores:
    """Models that all were asked about the same examples."""
    population = None
    if any(
        name.startswith("population_") and name.removeprefix("population_") in GIVEN
        for name in arrays
    ):
        also, mine = _said(arrays, "")
        kind, values = _said(arrays, "population_", len(mine))
        labels = _known_labels(arrays, "population_labels", kind, values)
        ends = (
            _ends(also, mine, _known_labels(arrays, "labels", also, mine))
            if also == kind != "logits"
            else None
        )
        nobody = np.zeros(values.shape[:2], dtype=bool)
        population = _scores(
            kind, values, labels, nobody, ends, inputs=arrays.get("population_inputs")
        )
        if (
            population.inputs is not None
            and "inputs" in arrays
            and population.inputs.shape[1:] != arrays["inputs"].shape[1:]
        ):
            raise _wrong(
                f"population_inputs must be [{len(labels)}, ...] like inputs, got "
                f"{population.inputs.shape}"
            )
    targets = arrays.get("targets", np.array([], dtype=int))
    if targets.ndim != 1 or (targets.size and targets.dtype.kind not in "iu"):
        raise _wrong(
            f"targets must be a list of whole numbers, got {targets.dtype} {targets.shape}"
        )
    more = {
        "targets": tuple(targets.tolist()),
        "inputs": arrays.get("inputs"),
        "population": population,
        "extras": {name: arrays[name] for name in EXTRAS if name in arrays},
    }
    return _table(arrays, "", "membership", "labels", **more)


def _separate(arrays: Arrays) -> Scores:
    """A target, and shadow models with examples of their own: every record's model is one."""
    shadow = None
    if any(name.startswith("shadow_") for name in arrays):
        shadow = _table(arrays, "shadow_", "shadow_member", "shadow_labels")
        require_both(shadow, "shadow_member")
    mixed = [
        name
        for name in arrays
        if not name.startswith(("target_", "shadow_")) and name not in ("ids", "inputs")
    ]
    if mixed:
        raise _wrong(f"{mixed[0]} does not belong beside target_ and shadow_ arrays; remove it")
    return _table(
        arrays,
        "target_",
        "target_member",
        "target_labels",
        separate=shadow,
        inputs=arrays.get("inputs"),
    )


def _csv(path: Path) -> Arrays:
    """Columns id, member, and loss, confidence or p0, p1, ... with label; with a column model the
    rows of several models.
    """
    columns, rows = _csv_rows(path)
    classes = sorted(
        (name for name in columns if re.fullmatch(r"p\d+", name)), key=lambda name: int(name[1:])
    )
    _require_columns(columns, classes)
    if not rows:
        raise _wrong("the file has no rows")

    def column(name: str, convert: Callable[[str], Value]) -> list[Value]:
        values = []
        for line, row in rows:
            try:
                values.append(convert(row[name].strip()))
            except (ValueError, AttributeError):
                raise _wrong(f"line {line}: {name} is {row[name]!r}") from None
        return values

    tables = {"member": np.array(column("member", float))}
    for name in ("loss", "confidence"):
        if name in columns:
            tables[name] = np.array(column(name, float))
    if classes:
        tables["probabilities"] = np.stack([column(name, float) for name in classes], axis=1)
    if "label" in columns:
        tables["label"] = np.array(column("label", int))
    model = column("model", str) if "model" in columns else ["0"] * len(rows)
    return _pivot(tables, model, column("id", str))


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Names of the columns, and rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(f"cannot read {path}: {' '.join(str(error).split())}") from None
    return columns, rows


def _require_columns(columns: Sequence[str], classes: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise _wrong(f"a column stands there twice: {', '.join(columns)}")
    allowed = {"id", "model", "member", "label", "loss", "confidence", *classes}
    if unknown := [name for name in columns if name not in allowed]:
        known = "the columns are id, member, and loss, confidence or label, p0, p1, ..."
        raise _wrong(f"unknown column {unknown[0]!r}; {known}")
    for name in ("id", "member"):
        if name not in columns:
            raise _wrong(f"no column {name!r}; the file has {', '.join(columns) or 'no header'}")
    if list(classes) != [f"p{number}" for number in range(len(classes))]:
        raise _wrong(
            f"probabilities must be the columns p0, p1, ... without a gap, got {', '.join(classes)}"
        )


def _pivot(tables: dict[str, np.ndarray], model: Sequence[str], ids: Sequence[str]) -> Arrays:
    """Rows to arrays [M, N, ...]; every model must tell of every id once."""
    models, examples = list(dict.fromkeys(model)), list(dict.fromkeys(ids))
    place = {(m, i): row for row, (m, i) in enumerate(zip(model, ids, strict=True))}
    if len(place) < len(ids):
        raise _wrong("an id stands there twice for the same model")
    missing = next(((m, i) for m in models for i in examples if (m, i) not in place), None)
    if missing:
        raise _wrong(
            f"model {missing[0]} has no row for id {missing[1]}; every model must score every id"
        )
    order = np.array([[place[m, i] for i in examples] for m in models])
    arrays = {name: values[order] for name, values in tables.items() if name != "label"}
    arrays["membership"] = arrays.pop("member")
    if "label" in tables:
        labels = tables["label"][order]
        if (labels != labels[0]).any():
            raise _wrong("an id has different labels for different models")
        arrays["labels"] = labels[0]
    return {**arrays, "ids": np.array(examples)}
