"""What only the owner of a model can measure: per-example gradients, and answers about copies of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from dptrain.types import ConfigError

BLOCK = 64
"""Examples whose gradients are in memory at once."""

Values = Mapping[str, Tensor]


def gradient_norms(model: nn.Module, parameters: Values, inputs: Tensor, labels: Tensor) -> Tensor:
    """Norm of the gradient of each example's cross-entropy, float32 [N]; inputs [N, *shape], labels int64 [N], in evaluation mode.

    Raises ConfigError for a model that torch.func.vmap cannot run.
    """
    single = vmap(grad(_loss(model)), in_dims=(None, 0, 0))
    trainable = {name: parameters[name] for name, _ in model.named_parameters()}
    found = []
    try:
        for block, own in zip(inputs.split(BLOCK), labels.split(BLOCK), strict=True):
            gradients = single(trainable, block, own)
            found.append(torch.stack([value.flatten(1).square().sum(dim=1) for value in gradients.values()]).sum(dim=0).sqrt())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError("attacks", f"this model has no gradient norms ({reason}); leave gradient_norm and gradient_canary out") from None
    return torch.cat(found)


def gradient_cosines(model: nn.Module, start: Values, end: Values, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cosine of a model's way, end - start, and each example's descent direction at the start, float32 [N].

    One forward-mode derivative along the way gives every example's inner product at once. 0 where either is zero.
    """
    trainable = {name: start[name] for name, _ in model.named_parameters()}
    way = {name: end[name] - value for name, value in trainable.items()}
    length = torch.stack([value.square().sum() for value in way.values()]).sum().sqrt()
    products = []
    for block, own in zip(inputs.split(8 * BLOCK), labels.split(8 * BLOCK), strict=True):

        def losses(values: dict[str, Tensor], block: Tensor = block, own: Tensor = own) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, values, (block,)), own, reduction="none")

        products.append(jvp(losses, (trainable,), (way,))[1])
    sizes = gradient_norms(model, start, inputs, labels) * length
    return torch.where(sizes > 0, -torch.cat(products) / sizes.clamp(min=1e-30), 0.0).detach()


def _loss(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(values: dict[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, values, (example[None],)), label[None])

    return loss
