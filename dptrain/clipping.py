"""Sums of clipped per-example gradients: closed forms for K stacked models, or Opacus for any other module.

Parameters and gradients of a stack are dicts from parameter name to a contiguous tensor [K, *shape]. Both engines write
sum_i w_i c_i grad_i, where c_i = min(1, clip / |grad_i|). An example whose gradient is not finite counts as zero.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Stack = Mapping[str, Tensor]
Engine = Callable[[Stack, Tensor, Tensor, Tensor, float, Stack], Tensor]
"""(parameters, inputs [K, B, *shape], labels [K, B], weights [K, B], clip, out) -> losses [K, B]"""


def stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The parameters of K models of one architecture, side by side."""
    each = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([parameters[name].detach() for parameters in each]) for name in each[0]}


@dataclass(frozen=True)
class Rule:
    """Closed forms of one layer type for K stacked models; a [K, B, ...] is its input, g that of the loss's gradient at its output.

    forward: (layer, parameters, a) -> output [K, B, ...].
    norm: (layer, a, g) -> norm of each example's parameter gradient [K, B].
    total: (layer, a, g, out) writes the sum over examples of its gradients, by parameter name.
    """

    forward: Callable[[nn.Module, Stack, Tensor], Tensor]
    norm: Callable[[nn.Module, Tensor, Tensor], Tensor]
    total: Callable[[nn.Module, Tensor, Tensor, Stack], None]


def _linear_forward(layer: nn.Module, own: Stack, a: Tensor) -> Tensor:
    weight = own["weight"].transpose(1, 2)
    return torch.baddbmm(own["bias"][:, None], a, weight) if "bias" in own else torch.bmm(a, weight)


def _linear_norm(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    # The weight gradient of one example is the outer product g a^T, the bias gradient g: |g| sqrt(|a|^2 + 1) (Goodfellow 2015).
    # vector_norm, because a.square() would write a temporary as large as the batch, which costs more than the products; norms, not
    # their squares, because those underflow.
    inputs = torch.linalg.vector_norm(a, dim=-1)
    return torch.linalg.vector_norm(g, dim=-1) * (inputs.hypot(torch.ones_like(inputs)) if layer.bias is not None else inputs)


def _linear_total(layer: nn.Module, a: Tensor, g: Tensor, out: Stack) -> None:
    torch.bmm(g.transpose(1, 2), a, out=out["weight"])
    if "bias" in out:
        torch.sum(g, 1, out=out["bias"])


RULES: dict[type[nn.Module], Rule] = {nn.Linear: Rule(_linear_forward, _linear_norm, _linear_total)}


def unsupported(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why the stacked engine cannot train this module, or None if it can."""
    calls: dict[str, int] = {}
    hooks = []
    for path, module in model.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        if type(module) not in RULES:
            return f"layer {path!r} is {type(module).__name__}, which has no closed form"
        if not all(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            return f"layer {path!r} has frozen parameters"

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor, path: str = path) -> None:
            calls[path] = calls.get(path, 0) + (1 if inputs[0].dim() == 2 and len(inputs[0]) == 2 else 2)

        calls[path] = 0
        hooks.append(module.register_forward_hook(count))
    if len({id(p) for p in model.parameters()}) != sum(1 for _ in model.named_parameters(remove_duplicate=False)):
        return "parameters are shared between layers"
    try:
        with torch.no_grad():
            model(torch.zeros((2, *shape)))
    finally:
        for hook in hooks:
            hook.remove()
    odd = [path for path, number in calls.items() if number != 1]
    return f"layer {odd[0]!r} is not called exactly once on [batch, features]" if odd else None


class StackedEngine:
    """K models side by side: one forward and one backward pass for all, no per-example gradient in memory.

    The module runs once on all K * B examples; layers with a rule use each model's own parameters, and everything else treats
    examples alike whichever model they belong to. The backward pass stops at the layer outputs: with a layer's input, the
    gradient there gives each example's norm, and one batched product the clipped sum.
    """

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model)
        self.layers = {path: module for path, module in self.model.named_modules() if type(module) in RULES}
        self._parameters: dict[str, Stack] = {}
        self._models = 0
        self._taps: dict[str, tuple[Tensor, Tensor]] = {}
        for path, layer in self.layers.items():
            layer.forward = functools.partial(self._layer, path)

    def _layer(self, path: str, inputs: Tensor) -> Tensor:
        layer = self.layers[path]
        a = inputs.unflatten(0, (self._models, -1))
        z = RULES[type(layer)].forward(layer, self._parameters[path], a).flatten(0, 1)
        if not z.requires_grad:
            z.requires_grad_()
        self._taps[path] = (a.detach(), z)
        return z

    def _own(self, named: Stack) -> dict[str, Stack]:
        prefix = {path: f"{path}." if path else "" for path in self.layers}
        return {
            path: {name: named[prefix[path] + name] for name, _ in layer.named_parameters(recurse=False)}
            for path, layer in self.layers.items()
        }

    def __call__(self, parameters: Stack, inputs: Tensor, labels: Tensor, weights: Tensor, clip: float, out: Stack) -> Tensor:
        """Fill `out` with the clipped sums; return the losses [K, B], before the step.

        inputs [K, B, *shape]; labels int [K, B]; weights bool [K, B], False for padding.
        """
        self._models, self._parameters = len(labels), self._own(parameters)
        logits = self.model(inputs.flatten(0, 1))
        losses = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none").view(labels.shape)
        slopes = torch.autograd.grad(losses.sum(), [z for _, z in self._taps.values()])
        taps = {path: (a, g.view(*labels.shape, *g.shape[1:])) for (path, (a, _)), g in zip(self._taps.items(), slopes, strict=True)}
        self._taps = {}
        with torch.no_grad():
            norms = inputs.new_zeros(labels.shape)
            for path, (a, g) in taps.items():
                norms = norms.hypot(RULES[type(self.layers[path])].norm(self.layers[path], a, g))
            keep = weights & torch.isfinite(norms)
            factors = keep.to(inputs.dtype)
            if math.isfinite(clip):
                factors = torch.where(keep, torch.clamp(clip / (norms + 1e-12), max=1.0), factors)
            poisoned = not bool(torch.isfinite(norms).all())
            for path, own in self._own(out).items():
                a, g = taps[path]
                if poisoned:  # 0 * inf is nan, so what is not finite must go, not be scaled by zero
                    a, g = (torch.where(_beside(keep, value), value, torch.zeros_like(value)) for value in (a, g))
                # Not in place: layers whose outputs are added share one gradient tensor.
                RULES[type(self.layers[path])].total(self.layers[path], a, g * _beside(factors, g), own)
        return losses.detach()


def _beside(each: Tensor, values: Tensor) -> Tensor:
    """[K, B] shaped to multiply [K, B, ...]."""
    return each.view(*each.shape, *[1] * (values.dim() - 2))


class OpacusEngine:
    """Any module without cross-example layers, one model at a time, through Opacus's GradSampleModule."""

    def __init__(self, model: nn.Module):
        from opacus.grad_sample import GradSampleModule

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")

    def __call__(self, parameters: Stack, inputs: Tensor, labels: Tensor, weights: Tensor, clip: float, out: Stack) -> Tensor:
        """As StackedEngine.__call__."""
        losses = inputs.new_zeros(labels.shape)
        own = dict(self.model._module.named_parameters())
        for row, used in enumerate(weights):
            for total in out.values():
                total[row].zero_()
            if not used.any():
                continue
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(parameters[name][row])
            self.model.zero_grad(set_to_none=True)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Full backward hook is firing")  # inputs need no gradient here
                each = nn.functional.cross_entropy(self.model(inputs[row, used]), labels[row, used], reduction="none")
                each.sum().backward()
            samples = {name: self._per_example(name, parameter, len(each)) for name, parameter in own.items()}
            norms = torch.stack([sample.flatten(1).norm(dim=1) for sample in samples.values()]).norm(dim=0)
            keep = torch.isfinite(norms)
            factors = torch.clamp(clip / (norms + 1e-12), max=1.0) if math.isfinite(clip) else torch.ones_like(norms)
            factors = torch.where(keep, factors, torch.zeros_like(factors))
            for name, sample in samples.items():
                finite = torch.where(keep.view(-1, *[1] * (sample.dim() - 1)), sample, torch.zeros_like(sample))
                out[name][row] = torch.tensordot(factors, finite, dims=1)
            losses[row, used] = each.detach()
        return losses

    @staticmethod
    def _per_example(name: str, parameter: nn.Parameter, batch: int) -> Tensor:
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor) or len(sample) != batch:
            raise RuntimeError(f"parameter {name!r} has no gradient for each of the {batch} examples")
        return sample


ENGINES: dict[str, Callable[[nn.Module], Engine]] = {"stacked": StackedEngine, "opacus": OpacusEngine}


def disagreement(engine: str, model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why an engine's clipped sum on a small random batch is not that of plain autograd, one example at a time; None if it is.

    Catches what no rule can know of, such as a layer's weight used a second time by a function.
    """
    inputs = torch.randn((1, 3, *shape), generator=torch.Generator().manual_seed(0))
    own = copy.deepcopy(model)
    with torch.no_grad():
        labels = torch.arange(3).remainder(own(inputs[0]).shape[-1])[None]
    expected = {name: torch.zeros_like(parameter) for name, parameter in own.named_parameters()}
    norms = []
    for x, y in zip(inputs[0], labels[0], strict=True):
        own.zero_grad()
        nn.functional.cross_entropy(own(x[None]), y[None]).backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.named_parameters()}
        norms.append(float(torch.stack([value.norm() for value in gradients.values()]).norm()))
        for name, value in gradients.items():
            expected[name] += value / max(norms[-1], 1e-12)
    parameters = stack([model])
    found = {name: torch.zeros_like(value) for name, value in parameters.items()}
    clip = min(norms) / 2  # every example is clipped, so a wrong norm shows as a wrong sum
    try:
        ENGINES[engine](model)(parameters, inputs, labels, torch.ones(1, 3, dtype=torch.bool), clip, found)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"the {engine} engine fails on it ({str(error).strip().splitlines()[0]})"
    for name, value in expected.items():
        if not torch.allclose(found[name][0], clip * value, rtol=1e-3, atol=1e-4 * clip):
            return f"the {engine} engine's gradient of {name!r} is not that of plain autograd"
    return None
