"""Sums of clipped per-example gradients: what every engine promises, and the one of closed forms for K stacked models.

Parameters and gradients of a stack are dicts from parameter name to a contiguous tensor [K, *shape]. Every engine writes
sum_i w_i c_i grad_i, where c_i is a function of |grad_i| that keeps c_i |grad_i| <= clip, and grad_i is the gradient of example i's
loss, mean over its views. An example whose gradient is not finite counts as zero.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dptrain.regularise import Regulariser
from dptrain.row_wise import one_by_one, row_wise
from dptrain.rules import RULES, Call
from dptrain.terms import wide

Stack = Mapping[str, Tensor]
Factor = Callable[[Tensor], Tensor]
"""Norms of per-example gradients -> what each is multiplied by."""


class Engine(Protocol):
    """Sums of clipped per-example gradients of K models."""

    def __call__(
        self,
        parameters: Stack,
        inputs: Tensor,
        labels: Tensor,
        weights: Tensor,
        factor: Factor | None,
        out: Stack,
        regulariser: Regulariser | None = None,
    ) -> Tensor:
        """parameters; inputs [K, B, V, *shape], labels [K, B], weights bool [K, B] -> losses [K, B].

        Fills `out` with the clipped sums; losses are from before the step. V views of an example count as one example (augmentation
        multiplicity). weights are False for padding. factor None sums without clipping, the plain SGD of any trainer; only then may there be a
        regulariser, which changes what is minimised.
        """


CLIPPINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "flat": lambda norms, clip: torch.clamp(clip / (norms + 1e-12), max=1.0),
    "automatic": lambda norms, clip: clip / (norms + 0.01),
    "normalise": lambda norms, clip: clip / (norms + 1e-12),
}
"""Abadi et al. 2016, algorithm 1; AUTO-S, Bu et al. 2023, equation 4 with gamma = .01; every gradient scaled to the clip."""


def clipper(name: str, clip: float, unit: float = 1.0) -> Factor | None:
    """The factor of a clipping with its bound, in units of a power of two; None where the bound is infinite."""
    return (lambda norms: CLIPPINGS[name](norms, clip) / unit) if math.isfinite(clip) else None


def stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The parameters of K models of one architecture, side by side."""
    each = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([parameters[name].detach() for parameters in each]) for name in each[0]}


def layout(model: nn.Module, inputs: Tensor) -> Tensor:
    """Images [n, C, H, W] with channels last in memory for a convolutional model: half the time on a CPU."""
    if inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return inputs.to(memory_format=torch.channels_last)
    return inputs


class StackedEngine:
    """K models side by side: one forward and one backward pass for all.

    The module runs once on all K * B * V inputs; layers with a rule use each model's own parameters, and everything else treats
    examples alike whichever model they belong to. The backward pass stops at the layer outputs: with a layer's input, the
    gradient there gives each example's parameter gradient by the layer's rule. Without clipping it goes on to the parameters.

    Where a module is not known to be row-wise, all that lies between its layers runs under vmap, one example a call, and only the
    layers, which are, get the whole batch.
    """

    def __init__(self, model: nn.Module, precision: str = "float32"):
        self.model = copy.deepcopy(model)
        self.half = precision == "bfloat16"
        self.layers = {path: module for path, module in self.model.named_modules() if list(module.parameters(recurse=False))}
        self._numbers = {path: number for number, path in enumerate(self.layers)}
        self._regulariser: Regulariser | None = None
        self._own: Mapping[str, Stack] = {}
        self._taps: dict[str, list[Call]] = {}
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # it would overwrite the output that a tap holds
        self._row_wise = row_wise(self.model)
        for path, layer in self.layers.items():
            layer.forward = functools.partial(self._layer if self._row_wise else self._layer_of_one, path)

    def _forward(self, flat: Tensor) -> Tensor:
        """Inputs [K * B * V, *shape] to logits [K * B * V, C]."""
        flat = layout(self.model, flat)
        return self.model(flat) if self._row_wise else one_by_one(self.model)(flat)

    def _layer_of_one(self, path: str, inputs: Tensor) -> Tensor:
        """What a layer is called by where vmap shows the module one example: the layer itself gets the whole batch."""
        return _Batched.apply(functools.partial(self._layer, path), inputs)

    def _layer(self, path: str, inputs: Tensor) -> Tensor:
        layer = self.layers[path]
        if self._regulariser is not None:
            inputs = self._regulariser.dropped(self._numbers[path], inputs)
        z, saved = RULES[type(layer)].forward(layer, self._own[path], inputs)
        if not z.requires_grad:
            z.requires_grad_()
        self._taps.setdefault(path, []).append((saved.detach(), z))
        return z

    def _by_layer(self, named: Stack) -> dict[str, dict[str, Tensor]]:
        prefix = {path: f"{path}." if path else "" for path in self.layers}
        return {
            path: {name: named[prefix[path] + name] for name, _ in layer.named_parameters(recurse=False)}
            for path, layer in self.layers.items()
        }

    def __call__(
        self,
        parameters: Stack,
        inputs: Tensor,
        labels: Tensor,
        weights: Tensor,
        factor: Factor | None,
        out: Stack,
        regulariser: Regulariser | None = None,
    ) -> Tensor:
        """See Engine. Raises ValueError for a regulariser where gradients are clipped: it may mix examples."""
        if factor is not None and regulariser is not None:
            raise ValueError("a regulariser is for plain training only")
        self._regulariser = regulariser
        if factor is None:
            parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._own, self._taps = self._by_layer(parameters), {}
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.half):
            logits = self._forward(inputs.flatten(0, 2))
        losses = mean_losses(logits, labels, inputs.shape[2])
        if factor is None:
            aims = losses
            if regulariser is not None:
                aims = regulariser.objective(wide(logits).view(*inputs.shape[:3], -1), labels, weights)
            found = torch.autograd.grad(
                torch.where(weights, aims, 0.0).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(parameters, found, strict=True):
                out[name].copy_(gradient)
        else:
            self._clipped(losses, weights, factor, out)
        self._own, self._taps = {}, {}
        return losses.detach()

    def logits(self, parameters: Stack, inputs: Tensor) -> Tensor:
        """Of inputs [K, B, *shape]: [K, B, C], without gradients."""
        self._own, self._taps, self._regulariser = self._by_layer(parameters), {}, None
        with torch.no_grad():
            found = wide(self._forward(inputs.flatten(0, 1)))
        self._own, self._taps = {}, {}
        return found.view(*inputs.shape[:2], -1)

    def _clipped(self, losses: Tensor, weights: Tensor, factor: Factor, out: Stack) -> None:
        outputs = [z for calls in self._taps.values() for _, z in calls]
        slopes = iter(torch.autograd.grad(losses.sum(), outputs, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            terms = {}
            for path, calls in self._taps.items():
                layer = self.layers[path]
                tapped = [(saved, next(slopes)) for saved, _ in calls]
                calls.clear()
                terms[path] = RULES[type(layer)].gradients(layer, self._own[path], tapped, *losses.shape)
            norms = torch.zeros_like(losses)
            for own in terms.values():
                for term in own.values():
                    norms = norms.hypot(term.norm())
            finite = torch.isfinite(norms)
            keep = weights & finite
            factors = torch.where(keep, factor(norms), 0.0)
            scrub = None if norms.device.type == "cpu" and bool(finite.all()) else keep
            for path, targets in self._by_layer(out).items():
                for name, target in targets.items():
                    if path in terms:
                        terms[path][name].total(factors, scrub, target)
                    else:
                        target.zero_()


class _Batched(torch.autograd.Function):
    """Call a function of a whole batch from within vmap. Autograd runs below vmap, so the function's own operations are what is
    differentiated."""

    @staticmethod
    def forward(call: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        raise RuntimeError("a layer is called on an input that is the same for all examples")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: backward is never reached."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, int]:
        """inputs: [batch, 1, ...], the rows that vmap hides, each a batch of one."""
        rows = inputs.movedim(in_dims[1], 0)
        if rows.dim() < 3:
            return call(rows), 0
        out = call(rows.flatten(0, 1))
        return out.unflatten(0, rows.shape[:2]), 0


def mean_losses(logits: Tensor, labels: Tensor, views: int) -> Tensor:
    """Cross-entropy [K, B] in float32, mean over the views."""
    repeated = labels.flatten().repeat_interleave(views)
    return nn.functional.cross_entropy(wide(logits), repeated, reduction="none").view(*labels.shape, views).mean(-1)
