"""What only the owner of a model can measure: per-example gradients, and answers about copies of
each example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.core.errors import AttackError, first_line

BLOCK = 64
"""Examples whose gradients are in memory at once."""

Values = Mapping[str, Tensor]


def gradient_norms(
    model: nn.Module, parameters: Values, inputs: Shaped[Tensor, "N ..."], labels: Int[Tensor, " N"]
) -> Tensor:
    """Norm of the gradient of each example's cross-entropy, float32 [N]; inputs [N, *shape], labels
    int64 [N], in evaluation mode.

    Raises AttackError for a model that torch.func.vmap cannot run.
    """
    return torch.cat(
        [_norms(gradients) for gradients in _gradients(model, parameters, inputs, labels)]
    )


def gradient_cosines(
    model: nn.Module,
    start: Values,
    end: Values,
    inputs: Shaped[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
) -> Tensor:
    """Cosine of a model's way, end - start, and each example's descent direction at the start,
    float32 [N]; 0 where either is zero.

    Raises AttackError as gradient_norms does.
    """
    way = {name: (end[name] - start[name]).flatten() for name, _ in model.named_parameters()}
    length = torch.stack([value.square().sum() for value in way.values()]).sum().sqrt()
    norms = []
    for gradients in _gradients(model, start, inputs, labels):
        product = torch.stack(
            [value.flatten(1) @ way[name] for name, value in gradients.items()]
        ).sum(dim=0)
        size = _norms(gradients) * length
        norms.append(torch.where(size > 0, -product / size.clamp(min=1e-30), 0.0))
    return torch.cat(norms)


def _norms(gradients: Values) -> Tensor:
    return (
        torch.stack([value.flatten(1).square().sum(dim=1) for value in gradients.values()])
        .sum(dim=0)
        .sqrt()
    )


def _gradients(
    model: nn.Module, parameters: Values, inputs: Shaped[Tensor, "N ..."], labels: Int[Tensor, " N"]
) -> Iterator[dict[str, Tensor]]:
    """The gradients of BLOCK examples after the other, each [B, ...]."""
    single = vmap(grad(_loss(model)), in_dims=(None, 0, 0))
    trainable = {name: parameters[name] for name, _ in model.named_parameters()}
    for block, block_labels in zip(inputs.split(BLOCK), labels.split(BLOCK), strict=True):
        try:
            yield single(trainable, block, block_labels)
        except RuntimeError as error:
            raise AttackError(
                f"this model has no gradient norms ({first_line(error)}); leave "
                "gradient_norm and gradient_canary out"
            ) from None


def _loss(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(
        values: dict[str, Tensor], example: Shaped[Tensor, " ..."], label: Int[Tensor, ""]
    ) -> Tensor:
        return nn.functional.cross_entropy(
            functional_call(model, values, (example[None],)), label[None]
        )

    return loss
