"""The engine of closed forms, for K stacked models."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dptrain.core.types import Precision
from dptrain.models.row_wise import one_by_one, row_wise
from dptrain.training.gradients.base import Batch, Engine, Factor, Stack, layout, mean_losses
from dptrain.training.gradients.rules import RULES, Call
from dptrain.training.gradients.terms import wide
from dptrain.training.regularisers import StepLoss


class StackedEngine(Engine):
    """K models side by side: one forward and one backward pass for all.

    The module runs once on all K * B * V inputs; layers with a rule use each model's own
    parameters, and everything else treats examples alike whichever model they belong to. The
    backward pass stops at the layer outputs: with a layer's input, the gradient there gives each
    example's parameter gradient by the layer's rule. Without clipping it goes on to the parameters.

    Where a module is not known to be row-wise, all that lies between its layers runs under vmap,
    one example a call, and only the layers, which are, get the whole batch.
    """

    def __init__(self, model: nn.Module, precision: Precision = Precision.FLOAT32):
        self.model = copy.deepcopy(model)
        self.half = precision == Precision.BFLOAT16
        self.layers = {
            path: module
            for path, module in self.model.named_modules()
            if list(module.parameters(recurse=False))
        }
        self._numbers = {path: number for number, path in enumerate(self.layers)}
        self._loss: StepLoss | None = None
        self._parameters: Mapping[str, Stack] = {}
        self._taps: dict[str, list[Call]] = {}
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                # It would overwrite the output that a tap holds.
                module.inplace = False  # type: ignore[assignment]
        self._row_wise = row_wise(self.model)
        for path, layer in self.layers.items():
            call = self._layer if self._row_wise else self._layer_under_vmap
            layer.forward = functools.partial(call, path)

    def _clipped_sums(self, parameters: Stack, batch: Batch, factor: Factor, out: Stack) -> Tensor:
        losses, _ = self._losses(parameters, batch, None)
        self._sum_clipped(losses, batch.weights, factor, out)
        self._forget()
        return losses.detach()

    def _plain_sums(
        self, parameters: Stack, batch: Batch, out: Stack, loss: StepLoss | None
    ) -> Tensor:
        parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        losses, logits = self._losses(parameters, batch, loss)
        objective = losses
        if loss is not None:
            seen = wide(logits).view(*batch.inputs.shape[:3], -1)
            objective = loss.objective(seen, batch.labels, batch.weights)
        gradients = torch.autograd.grad(
            torch.where(batch.weights, objective, 0.0).sum(),
            list(parameters.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            out[name].copy_(gradient)
        self._forget()
        return losses.detach()

    def logits(self, parameters: Stack, inputs: Shaped[Tensor, "K B ..."]) -> Tensor:
        """Of inputs [K, B, *shape]: [K, B, C], without gradients."""
        self._parameters, self._loss = self._by_layer(parameters), None
        with torch.no_grad():
            logits = wide(self._forward(inputs.flatten(0, 1)))
        self._forget()
        return logits.view(*inputs.shape[:2], -1)

    def _losses(
        self, parameters: Stack, batch: Batch, loss: StepLoss | None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy [K, B] and logits [K * B * V, C], with a tap on every layer."""
        self._loss, self._parameters, self._taps = loss, self._by_layer(parameters), {}
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.half):
            logits = self._forward(batch.inputs.flatten(0, 2))
        views = batch.inputs.shape[2]
        return mean_losses(logits, batch.labels, views, batch.shares, self.kind), logits

    def _forget(self) -> None:
        self._parameters, self._taps = {}, {}

    def _forward(self, flat: Shaped[Tensor, "n ..."]) -> Tensor:
        """Inputs [K * B * V, *shape] to logits [K * B * V, C]."""
        flat = layout(self.model, flat)
        return self.model(flat) if self._row_wise else one_by_one(self.model)(flat)

    def _layer_under_vmap(self, path: str, inputs: Shaped[Tensor, "n ..."]) -> Tensor:
        """What a layer is called by where vmap shows the module one example: the layer itself gets
        the whole batch.
        """
        result: Tensor = _Batched.apply(  # type: ignore[no-untyped-call]
            functools.partial(self._layer, path), inputs
        )
        return result

    def _layer(self, path: str, inputs: Shaped[Tensor, "n ..."]) -> Tensor:
        layer = self.layers[path]
        if self._loss is not None:
            inputs = self._loss.dropped(self._numbers[path], inputs)
        z, saved = RULES[type(layer)].forward(layer, self._parameters[path], inputs)
        if not z.requires_grad:
            z.requires_grad_()
        self._taps.setdefault(path, []).append((saved.detach(), z))
        return z

    def _by_layer(self, named: Stack) -> dict[str, dict[str, Tensor]]:
        prefix = {path: f"{path}." if path else "" for path in self.layers}
        return {
            path: {
                name: named[prefix[path] + name]
                for name, _ in layer.named_parameters(recurse=False)
            }
            for path, layer in self.layers.items()
        }

    def _sum_clipped(
        self, losses: Float[Tensor, "K B"], weights: Bool[Tensor, "K B"], factor: Factor, out: Stack
    ) -> None:
        outputs = [z for calls in self._taps.values() for _, z in calls]
        slopes = iter(
            torch.autograd.grad(losses.sum(), outputs, allow_unused=True, materialize_grads=True)
        )
        with torch.no_grad():
            terms = {}
            for path, calls in self._taps.items():
                layer = self.layers[path]
                tapped = [(saved, next(slopes)) for saved, _ in calls]
                calls.clear()
                terms[path] = RULES[type(layer)].gradients(
                    layer, self._parameters[path], tapped, *losses.shape
                )
            norms = torch.zeros_like(losses)
            for of_layer in terms.values():
                for term in of_layer.values():
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
    """Call a function of a whole batch from within vmap. Autograd runs below vmap, so the
    function's own operations are what is differentiated.
    """

    @staticmethod
    def forward(call: Callable[[Tensor], Tensor], inputs: Shaped[Tensor, " ..."]) -> Tensor:
        raise RuntimeError("a layer is called on an input that is the same for all examples")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Shaped[Tensor, " ..."]) -> None:
        """Nothing is saved: backward is never reached."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        call: Callable[[Tensor], Tensor],
        inputs: Shaped[Tensor, " ..."],
    ) -> tuple[Tensor, int]:
        """inputs: [batch, 1, ...], the rows that vmap hides, each a batch of one."""
        rows = inputs.movedim(in_dims[1], 0)
        if rows.dim() < 3:
            return call(rows), 0
        out = call(rows.flatten(0, 1))
        return out.unflatten(0, rows.shape[:2]), 0
