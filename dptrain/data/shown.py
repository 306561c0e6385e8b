"""Single examples as a person looks at them: an image drawn, a row of a table listed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from dptrain.data.splits import Dataset, Source

Shown = Mapping[str, Any]
"""label, and image (a PNG as base64) or row (column -> text); of other data the label alone."""


def shown(
    source: Source, dataset: Dataset, rows: Int[np.ndarray, " N"], places: Sequence[int]
) -> dict[int, Shown]:
    """Examples of the pool by their places in it. rows: the place in the source of each of the
    pool.
    """
    names = [name for part in ("numbers", "categories") for name in _columns(source, part)]
    texts: dict[str, np.ndarray] = {}
    if source.column is not None:
        texts = {name: source.column(name) for name in names}
    examples: dict[int, Shown] = {}
    for place in places:
        made = place < dataset.canaries  # of no row of the table
        example: dict[str, Any] = {"label": _label(source, dataset.pool.labels[place])}
        if made:
            example["label"] += " (canary)"
        if dataset.pool.inputs.ndim == 4:
            example["image"] = image(_pixels(source, dataset.pool.inputs[place]))
        elif texts and not made:
            example["row"] = {name: str(values[rows[place]]) for name, values in texts.items()}
        examples[place] = example
    return examples


def _columns(source: Source, part: str) -> list[str]:
    return [str(each["name"]) for each in source.how.get(part, [])]


def _label(source: Source, label: Any) -> str:
    if np.asarray(label).dtype.kind == "f":
        return f"{float(label):.3g}"
    return source.names[int(label)] if source.names else str(int(label))


def _pixels(source: Source, inputs: Float[np.ndarray, "C H W"]) -> np.ndarray:
    """An input as numbers from 0 to 1, by what was done to its bytes, or else from its least to its
    greatest.
    """
    if "mean" in source.how:
        mean, deviation = (np.array(source.how[name]) for name in ("mean", "deviation"))
        whole: np.ndarray = inputs * deviation.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)
        return whole
    low, high = float(inputs.min()), float(inputs.max())
    scaled: np.ndarray = (inputs - low) / max(high - low, 1e-12)
    return scaled


def image(pixels: Float[np.ndarray, "C H W"]) -> str:
    """A PNG as base64, of one channel or of three; of another number the first."""
    whole = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    drawn = whole.transpose(1, 2, 0) if len(whole) == 3 else whole[0]
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
