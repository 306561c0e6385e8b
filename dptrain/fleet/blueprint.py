"""A model as a configuration names it: built, told from others, and asked for weights that it
brings along.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dptrain import models
from dptrain.config.schema import Config
from dptrain.models.validation import inputs

ENOUGH, DEVIATIONS = 100, 6.0
"""Numbers of a tensor from which a correlation is looked at, and the standard errors from which it
is no chance.
"""


def build(
    config: Config,
    shape: Sequence[int],
    classes: int,
    seed: int = 0,
    instead: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A freshly initialised model of the configuration for inputs of a shape, some of its options
    replaced.
    """
    options = {
        key: value for key, value in {**config.model, **(instead or {})}.items() if key != "name"
    }
    return models.build(str(config.model.get("name")), options, shape, classes, seed)


def architecture(model: nn.Module, shape: Sequence[int], name: str) -> str:
    """Digest of a module's structure, initial values, logits of some inputs and code: a name in a
    configuration does not pin a plug-in, and a head of zeros says the same whatever stands before
    it.
    """
    hashed = hashlib.sha256((repr(model) + models.code_of(name, model)).encode())
    for part, value in sorted(model.state_dict().items()):
        hashed.update(part.encode() + value.cpu().numpy().tobytes())
    hashed.update(_logits(model, inputs(model, shape, 8)))
    return hashed.hexdigest()


def _logits(model: nn.Module, batch: torch.Tensor) -> bytes:
    """Logits of a batch, rounded: how many threads add up a sum moves its last digits, and must not
    make another model of it, which would be trained and paid for again.
    """
    wide = batch.double() if batch.is_floating_point() else batch
    with torch.no_grad():
        try:
            said, digits = copy.deepcopy(model).double()(wide), 6
        except RuntimeError:  # it computes in float32 alone
            said, digits = model(batch).double(), 1
    table = said.numpy()
    peak = float(np.abs(table).max()) or 1.0
    places = digits - math.floor(math.log10(peak)) if math.isfinite(peak) else digits
    return bytes((np.round(table, places) + 0.0).tobytes())  # no -0


def supplied(first: nn.Module, second: nn.Module) -> list[str]:
    """Names of the weights that two models, built from different seeds, have in common beyond
    constants: they were not drawn, but brought along, as pretrained ones are. A little noise on top
    hides nothing.
    """
    names, others = [], {**dict(second.named_parameters()), **dict(second.named_buffers())}
    for name, value in [*first.named_parameters(), *first.named_buffers()]:
        mine, other = value.detach().flatten().double(), others[name].detach().flatten().double()
        if (
            mine.numel() < 2
            or mine.numel() != other.numel()
            or float(mine.std()) <= 1e-6 * float(mine.abs().max())
        ):
            continue
        alike = (
            float(torch.corrcoef(torch.stack([mine, other]))[0, 1])
            if float(other.std()) > 0
            else 0.0
        )
        if torch.equal(mine, other) or (
            mine.numel() >= ENOUGH and abs(alike) * math.sqrt(mine.numel()) > DEVIATIONS
        ):
            names.append(name)
    return names
