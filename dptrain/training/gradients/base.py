"""What every engine promises: sums of clipped per-example gradients of K models.

Parameters and gradients of a stack are dicts from parameter name to a contiguous tensor [K,
*shape]. Every engine writes sum_i w_i c_i grad_i, where c_i is a function of |grad_i| that keeps
c_i |grad_i| <= clip, and grad_i is the gradient of example i's loss, mean over its views. An
example whose gradient is not finite counts as zero.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dptrain.core.types import Clipping, Loss
from dptrain.training.gradients.terms import wide
from dptrain.training.regularisers import StepLoss

Stack = Mapping[str, Tensor]
"""Parameter name -> [K, *shape], K models side by side."""
Factor = Callable[[Tensor], Tensor]
"""Norms of per-example gradients -> what each is multiplied by."""

CLIPPINGS: dict[Clipping, Callable[[Tensor, float], Tensor]] = {
    Clipping.FLAT: lambda norms, clip: torch.clamp(clip / (norms + 1e-12), max=1.0),
    Clipping.AUTOMATIC: lambda norms, clip: clip / (norms + 0.01),
    Clipping.NORMALISE: lambda norms, clip: clip / (norms + 1e-12),
}


@dataclass(frozen=True)
class Clipper:
    """The factors that bound what one example adds to a sum, in units of `unit`, a power of two."""

    clipping: Clipping
    clip: float
    unit: float = 1.0

    def __call__(self, norms: Float[Tensor, " ..."]) -> Tensor:
        return CLIPPINGS[self.clipping](norms, self.clip) / self.unit

    @property
    def sensitivity(self) -> float:
        """The L2 norm by which adding or removing one example can move the sum."""
        return self.clip / self.unit

    @staticmethod
    def of(clipping: Clipping, clip: float, unit: float = 1.0) -> Clipper | None:
        """None where the bound is infinite."""
        return Clipper(clipping, clip, unit) if math.isfinite(clip) else None


@dataclass(frozen=True)
class Watched:
    """A factor that also writes down the norms that it is asked about, infinite where they are no
    number. An engine asks about a whole batch [K, B], whose padding becomes nan, or about the
    examples of one model [n].
    """

    factor: Factor
    weights: Tensor
    norms: list[Tensor]

    def __call__(self, norms: Float[Tensor, " ..."]) -> Tensor:
        known = norms.detach().nan_to_num(nan=math.inf, posinf=math.inf)
        if norms.shape == self.weights.shape:
            known = torch.where(self.weights, known, math.nan)
        self.norms.append(known.flatten())
        return self.factor(norms)


@dataclass(frozen=True)
class Batch:
    """Units of K models: inputs [K, B, V, *shape] in V views, labels [K, B], or [K, B, V] of
    users, whose views are examples; weights bool [K, B], False for padding; shares [K, B, V] of
    the views in a unit's mean, None for equal ones.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    shares: Tensor | None = None


class Engine(ABC):
    """Computes sums of clipped per-example gradients of K models. kind: of the loss."""

    kind: Loss = Loss.CROSS_ENTROPY

    def __call__(  # noqa: PLR0913  # the last two have defaults
        self,
        parameters: Stack,
        inputs: Shaped[Tensor, "K B V ..."],
        labels: Shaped[Tensor, "K B ..."],
        weights: Bool[Tensor, "K B"],
        factor: Factor | None,
        out: Stack,
        loss: StepLoss | None = None,
        shares: Float[Tensor, "K B V"] | None = None,
    ) -> Tensor:
        """Fill `out` with the sums, and return the losses [K, B] from before the step.

        Args:
            parameters: those of K models, each [K, *shape].
            inputs: [K, B, V, *shape]; V views of an example count as one example.
            labels: [K, B], or [K, B, V] where views are the examples of a user.
            weights: bool [K, B], False for padding.
            factor: what a gradient of some norm is multiplied by; None sums without clipping, the
                plain SGD of any trainer.
            out: where the sums go, each [K, *shape].
            loss: what plain SGD minimises instead of the cross-entropy.
            shares: of the views in the mean of their unit; None for equal ones.

        Raises:
            ValueError: for a `loss` where gradients are clipped, since it may mix examples.
        """
        batch = Batch(inputs, labels, weights, shares)
        if factor is None:
            return self._plain_sums(parameters, batch, out, loss)
        if loss is not None:
            raise ValueError("a regulariser is for plain training only")
        return self._clipped_sums(parameters, batch, factor, out)

    @abstractmethod
    def _clipped_sums(
        self, parameters: Stack, batch: Batch, factor: Factor, out: Stack
    ) -> Tensor: ...

    @abstractmethod
    def _plain_sums(
        self, parameters: Stack, batch: Batch, out: Stack, loss: StepLoss | None
    ) -> Tensor: ...


def stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The parameters of K models of one architecture, side by side."""
    each = [dict(model.named_parameters()) for model in models]
    return {
        name: torch.stack([parameters[name].detach() for parameters in each]) for name in each[0]
    }


def layout(model: nn.Module, inputs: Shaped[Tensor, "n ..."]) -> Tensor:
    """Images [n, C, H, W] with channels last in memory for a convolutional model: half the time on
    a CPU.
    """
    if inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return inputs.to(memory_format=torch.channels_last)
    return inputs


def losses_of(kind: Loss, outputs: Float[Tensor, "n C"], labels: Shaped[Tensor, " n"]) -> Tensor:
    """The loss of each example [n], of logits or, in a regression, of numbers [n, 1]."""
    if kind == Loss.CROSS_ENTROPY:
        return nn.functional.cross_entropy(outputs, labels, reduction="none")
    errors = outputs[:, 0] - labels.to(outputs.dtype)
    return errors.square() / 2 if kind == Loss.SQUARED else errors.abs()


def mean_losses(
    logits: Float[Tensor, "n C"],
    labels: Shaped[Tensor, "K B ..."],
    views: int,
    shares: Float[Tensor, "K B V"] | None = None,
    kind: Loss = Loss.CROSS_ENTROPY,
) -> Tensor:
    """Losses [K, B] in float32 of outputs [K * B * V, C], mean over the views."""
    each = labels if labels.dim() == 3 else labels[..., None].expand(*labels.shape, views)
    losses = losses_of(kind, wide(logits), each.flatten())
    by_view = losses.view(each.shape)
    return by_view.mean(-1) if shares is None else (by_view * shares).sum(-1)


def of_parameters(flags: Bool[Tensor, " K"], values: Shaped[Tensor, "K ..."]) -> Tensor:
    """Flags [n] shaped so that they pick whole rows of values [n, ...]."""
    return flags.view(-1, *[1] * (values.dim() - 1))
