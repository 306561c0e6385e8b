"""What every model says about every example."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dptrain.clipping import Stack

BLOCK = 2048
"""Examples a forward pass; bounds memory whatever the size of the pool."""


@torch.no_grad()
def logits(model: nn.Module, parameters: Stack, inputs: Tensor) -> np.ndarray:
    """Logits of K stacked models on inputs [N, *shape] in evaluation mode: float32 [K, N, C]."""
    was_training = model.training
    model.eval()
    try:
        forward = vmap(lambda own, block: functional_call(model, own, (block,)), in_dims=(0, None))
        return torch.cat([forward(dict(parameters), block) for block in inputs.split(BLOCK)], dim=1).float().cpu().numpy()
    finally:
        model.train(was_training)
