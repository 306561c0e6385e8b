"""AUGMENTATIONS: random views of images, as index maps in plain torch.

A map takes draws (uint32 as int64, [n, 3]: rows, columns, flip) and the size of an image, and
returns where each output row or column is read from: rows [n, H] and columns [n, W].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dptrain.core.errors import TrainingError
from dptrain.core.streams import Purpose, fill

CROP, SHIFT = 4, 2
"""Pixels: crops after padding by 4 are customary for CIFAR (De et al. 2022, appendix C); digits
stand a moderate shift only.
"""

Maps = tuple[Tensor, Tensor]


def _moved(draws: Int[Tensor, "n 3"], height: int, width: int, by: int) -> Maps:
    """Row and column numbers after a translation by -by..by pixels; may lie outside the image."""
    offset = draws[:, :2] % (2 * by + 1) - by
    return torch.arange(height, device=draws.device) + offset[:, :1], torch.arange(
        width, device=draws.device
    ) + offset[:, 1:]


def _flip(draws: Int[Tensor, "n 3"], height: int, width: int) -> Maps:
    rows, columns = _moved(draws, height, width, 0)
    return rows, torch.where(draws[:, 2:] % 2 == 0, columns, width - 1 - columns)


def _crop(draws: Int[Tensor, "n 3"], height: int, width: int) -> Maps:
    def reflect(index: Int[Tensor, "n size"], size: int) -> Tensor:
        return (size - 1) - ((size - 1) - index.abs()).abs()

    rows, columns = _moved(draws, height, width, CROP)
    return reflect(rows, height), reflect(columns, width)


def _shift(draws: Int[Tensor, "n 3"], height: int, width: int) -> Maps:
    rows, columns = _moved(draws, height, width, SHIFT)
    return rows.clamp(0, height - 1), columns.clamp(0, width - 1)


AUGMENTATIONS: dict[str, Callable[[Tensor, int, int], Maps]] = {
    "flip": _flip,
    "crop": _crop,
    "shift": _shift,
}
"""Mirrored left to right for one half; a random crop after padding by reflection; a small
translation that repeats the border.
"""


def _wrong(message: str) -> Exception:
    return TrainingError(message, "augmentations")


def require_images(shape: Sequence[int], wrong: Callable[[str], Exception] = _wrong) -> None:
    """Raise what `wrong` makes of the reason, unless inputs, as the trained part of a model sees
    them, are images larger than a crop moves them.
    """
    if len(shape) != 3 or min(shape[1:]) <= CROP:
        raise wrong(
            f"views are for images [channels, height, width], and {list(shape)} is trained on; "
            "leave them out"
        )


def draw(keys: Sequence[bytes], step: int, counts: Sequence[int], views: int) -> Tensor:
    """Random numbers for `views` views of counts[k] examples of each of K models: int64 [K, B, V,
    3], B the largest count.

    A function of (key, step) alone, so a resumed run sees the same views.
    """
    out = np.zeros((len(keys), max(1, *counts), views, 3), dtype=np.uint32)
    for row, key, count in zip(out, keys, counts, strict=True):
        if count:
            fill(key, Purpose.AUGMENTATION, step, row[:count])
    return torch.from_numpy(out.astype(np.int64))


def augment(
    names: Sequence[str], inputs: Float[Tensor, "K B C H W"], draws: Int[Tensor, "K B V 3"]
) -> Tensor:
    """Views of inputs [K, B, C, H, W] by draws [K, B, V, 3]: [K, B, V, C, H, W], the augmentations
    applied in order.
    """
    models, batch, views, _ = draws.shape
    channels, height, width = inputs.shape[2:]
    flat = draws.flatten(0, 2)
    rows, columns = (
        torch.arange(height, device=draws.device)[None],
        torch.arange(width, device=draws.device)[None],
    )
    rows, columns = rows.expand(len(flat), -1), columns.expand(len(flat), -1)
    for name in reversed(names):  # the last map reads from what the one before it wrote
        own_rows, own_columns = AUGMENTATIONS[name](flat, height, width)
        rows, columns = own_rows.gather(1, rows), own_columns.gather(1, columns)
    index = (rows[:, :, None] * width + columns[:, None, :]).view(
        models * batch, 1, views, height * width
    )
    source = inputs.reshape(models * batch, channels, 1, height * width).expand(-1, -1, views, -1)
    seen = source.gather(3, index.expand(-1, channels, -1, -1))
    return seen.transpose(1, 2).reshape(models, batch, views, channels, height, width)
