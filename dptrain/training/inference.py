"""What every model says about every example."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.func import functional_call

from dptrain.core.types import Loss
from dptrain.models.row_wise import one_by_one, row_wise
from dptrain.training.gradients.base import Stack, layout, losses_of

BLOCK = 512
"""Examples a forward pass; bounds memory whatever the size of the pool."""


def losses(
    model: nn.Module,
    parameters: Stack,
    inputs: Shaped[Tensor, "N ..."],
    labels: Shaped[Tensor, " N"],
    kind: Loss = Loss.CROSS_ENTROPY,
) -> np.ndarray:
    """Losses of K stacked models on inputs [N, *shape] with labels [N]: float32 [K, N]."""
    said = torch.from_numpy(logits(model, parameters, inputs))
    return torch.stack([losses_of(kind, of_model, labels.cpu()) for of_model in said]).numpy()


@torch.no_grad()
def logits(model: nn.Module, parameters: Stack, inputs: Shaped[Tensor, "N ..."]) -> np.ndarray:
    """Logits of K stacked models on inputs [N, *shape] in evaluation mode: float32 [K, N, C]."""
    was_training = model.training
    model.eval()
    try:
        each = [
            dict(zip(parameters, row, strict=True))
            for row in zip(*parameters.values(), strict=True)
        ]
        blocks = [layout(model, block) for block in inputs.split(BLOCK)]
        outputs = [
            torch.cat([_call(model, parameters_of_model)(block) for block in blocks])
            for parameters_of_model in each
        ]
        return torch.stack(outputs).float().cpu().numpy()
    finally:
        model.train(was_training)


def _call(model: nn.Module, parameters: Stack) -> Callable[[Tensor], Tensor]:
    """The function of one model, of which each example sees itself alone: what is scored is what
    was trained.
    """

    def call(block: Shaped[Tensor, "n ..."]) -> Tensor:
        result: Tensor = functional_call(model, dict(parameters), (block,))
        return result

    return call if row_wise(model) else one_by_one(call)
