"""What every model says about every example."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dptrain.clipping import Stack, layout
from dptrain.row_wise import one_by_one, row_wise

BLOCK = 512
"""Examples a forward pass; bounds memory whatever the size of the pool."""


def losses(model: nn.Module, parameters: Stack, inputs: Tensor, labels: Tensor) -> np.ndarray:
    """Cross-entropy of K stacked models on inputs [N, *shape] with labels [N]: float32 [K, N]."""
    said = torch.from_numpy(logits(model, parameters, inputs))
    return torch.stack([nn.functional.cross_entropy(own, labels.cpu(), reduction="none") for own in said]).numpy()


@torch.no_grad()
def logits(model: nn.Module, parameters: Stack, inputs: Tensor) -> np.ndarray:
    """Logits of K stacked models on inputs [N, *shape] in evaluation mode: float32 [K, N, C]."""
    was_training = model.training
    model.eval()
    try:
        each = [dict(zip(parameters, row, strict=True)) for row in zip(*parameters.values(), strict=True)]
        blocks = [layout(model, block) for block in inputs.split(BLOCK)]
        found = [torch.cat([_call(model, own)(block) for block in blocks]) for own in each]
        return torch.stack(found).float().cpu().numpy()
    finally:
        model.train(was_training)


def _call(model: nn.Module, own: Stack) -> Callable[[Tensor], Tensor]:
    """The function of one model, of which each example sees itself alone: what is scored is what was trained."""

    def call(block: Tensor) -> Tensor:
        return functional_call(model, dict(own), (block,))

    return call if row_wise(model) else one_by_one(call)
