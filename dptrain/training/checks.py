"""What is checked of an installation and of an engine before a training."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dptrain.core import streams
from dptrain.core.errors import TrainingError, first_line
from dptrain.core.types import Clipping, EngineKind, Loss, Precision
from dptrain.models.validation import inputs, randomised
from dptrain.training.gradients.base import CLIPPINGS, Factor, losses_of, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.gradients.rules import RULES

SAMPLER_STEPS, SAMPLER_MEMBERS = 1000, 256
SEEDS = 5
"""Random batches tried until two examples have a gradient."""


def refuse_sampler(batch_size: int, public_n: int) -> None:
    """Raise TrainingError unless the batches of this installation are Poisson, which the accountant
    takes for granted: each example in a batch by a coin of its own, so that sizes vary as a
    binomial's, and none but members. Limits of six standard errors, and a fixed seed: it passes or
    fails once for each pair of numbers.
    """
    q, steps, member = batch_size / public_n, SAMPLER_STEPS, np.arange(2 * SAMPLER_MEMBERS) % 2 == 0
    key = streams.seeded_key(0, "probe")
    batches = [streams.poisson(key, step, member, batch_size, public_n) for step in range(steps)]
    sizes = np.array([len(batch) for batch in batches])
    mean, variance = SAMPLER_MEMBERS * q, SAMPLER_MEMBERS * q * (1 - q)
    off = abs(sizes.mean() - mean) / math.sqrt(variance / steps + 1e-30)
    spread = (
        abs(sizes.var() / variance - 1) / math.sqrt((2 + 1 / variance) / steps) if variance else 0.0
    )
    if (
        off > 6
        or spread > 6
        or not all(member[batch].all() and len(np.unique(batch)) == len(batch) for batch in batches)
    ):
        sizes_seen = (
            f"mean size {sizes.mean():.2f} for {mean:.2f}, variance {sizes.var():.2f} for "
            f"{variance:.2f}"
        )
        raise TrainingError(
            "batch_size",
            f"batches are not Poisson ({sizes_seen}): no epsilon holds; reinstall dptrain",
        )


def unsupported(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why the stacked engine cannot train this module, or None if it can."""
    layers = {
        path: module
        for path, module in model.named_modules()
        if list(module.parameters(recurse=False))
    }
    for path, module in layers.items():
        if reason := _unsupported_layer(module):
            return f"layer {path!r} {reason}"
    names = sum(1 for _ in model.named_parameters(remove_duplicate=False))
    if len({id(parameter) for parameter in model.parameters()}) != names:
        return "parameters are shared between layers"
    odd = _called_oddly(model, layers, shape)
    return f"layer {odd[0]!r} is called on an input that is not [batch, ...]" if odd else None


def _unsupported_layer(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if type(module) not in RULES:
        return f"is {kind}, which has no closed form"
    if reason := RULES[type(module)].veto(module):
        return f"({kind}) {reason}"
    if not all(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return "has frozen parameters"
    if not {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}:
        return "has parameters of its own"
    return None


def _called_oddly(
    model: nn.Module, layers: Mapping[str, nn.Module], shape: tuple[int, ...]
) -> list[str]:
    """Paths of layers whose input does not begin with the batch."""
    odd: list[str] = []

    def check(path: str, _module: nn.Module, given: tuple[Any, ...], _output: Any) -> None:
        if not given or given[0].dim() < 2 or len(given[0]) != 2:
            odd.append(path)

    hooks = [
        module.register_forward_hook(functools.partial(check, path))
        for path, module in layers.items()
    ]
    try:
        with torch.no_grad():
            model(inputs(model, shape, 2))
    finally:
        for hook in hooks:
            hook.remove()
    return odd


def disagreement(engine: EngineKind, model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why an engine's sum on a small random batch, clipped or not, is not that of plain autograd,
    one example at a time; None if it is.

    Catches what no rule can know of, such as a layer's weight used a second time by a function. The
    engine is made of the initial model and asked about other weights too, since it must read none
    but those it is given. In float64, where a deep network's activations do not change sides of
    zero with the order of a sum; in float32 for a module that cannot do so.
    """
    for weights in (model, randomised(model)):
        try:
            reason = _disagreement(
                engine, copy.deepcopy(model).double(), copy.deepcopy(weights).double(), shape, 1e-5
            )
        except Exception:
            try:
                reason = _disagreement(
                    engine, copy.deepcopy(model), copy.deepcopy(weights), shape, 2e-2
                )
            except Exception as error:
                return f"the {engine} engine fails on it ({first_line(error)})"
        if reason:
            return reason
    return None


def _disagreement(
    engine: EngineKind,
    model: nn.Module,
    weighted: nn.Module,
    shape: tuple[int, ...],
    tolerance: float,
) -> str | None:
    """model: as it was built; weighted: the same with the weights to compare at."""
    dtype = next(model.parameters()).dtype
    examples, views = 3, 2
    for seed in range(SEEDS):
        drawn = inputs(copy.deepcopy(weighted).float(), shape, examples * views, seed)
        batch = (drawn.to(dtype) if drawn.is_floating_point() else drawn).unflatten(
            0, (examples, views)
        )
        gradients, labels = _gradients(weighted, batch)
        norms = [
            float(torch.stack([value.norm() for value in of_example.values()]).norm())
            for of_example in gradients
        ]
        positive = [norm for norm in norms if norm > 0]
        if len(positive) > 1:
            break
    else:
        return f"the {engine} engine cannot be checked: gradients on random inputs are zero"
    # Every example with a gradient is clipped, so a wrong norm shows as a wrong sum.
    clip = min(positive) / 2
    factors = [clip / norm if norm > 0 else 0.0 for norm in norms]

    def clipped(norms: Float[Tensor, " ..."]) -> Tensor:
        return CLIPPINGS[Clipping.FLAT](norms, clip)

    cases: list[tuple[Factor | None, list[float]]] = [(clipped, factors), (None, [1.0] * examples)]
    parameters = stack([weighted])
    for factor, scales in cases:
        sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
        weights = torch.ones(1, examples, dtype=torch.bool)
        step = ENGINES[engine](model, Precision.FLOAT32)
        step.kind = Loss.SQUARED if labels.is_floating_point() else Loss.CROSS_ENTROPY
        step(parameters, batch[None], labels[None], weights, factor, sums)
        for name, value in sums.items():
            expected = sum(
                scale * of_example[name]
                for scale, of_example in zip(scales, gradients, strict=True)
            )
            assert isinstance(expected, Tensor)
            if float((value[0] - expected).norm()) > tolerance * max(
                float(expected.norm()), 1e-3 * clip
            ):
                return f"the {engine} engine's gradient of {name!r} is not that of plain autograd"
    return None


def _gradients(
    model: nn.Module, batch: Shaped[Tensor, "B V ..."]
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Gradients of each example of [B, V, *shape] by plain autograd, mean over its views, and the
    labels they are for.
    """
    model_copy = copy.deepcopy(model)
    with torch.no_grad():
        outputs = model_copy(batch[0]).shape[-1]
    labels = torch.arange(len(batch)).remainder(outputs)
    kind = Loss.CROSS_ENTROPY
    if outputs == 1:  # of a regression
        labels, kind = torch.linspace(-1, 1, len(batch), dtype=batch.dtype), Loss.SQUARED
    gradients_of_examples = []
    for views, label in zip(batch, labels, strict=True):
        model_copy.zero_grad()
        losses_of(kind, model_copy(views), label.expand(len(views))).mean().backward()
        gradients_of_examples.append(
            {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in model_copy.named_parameters()
            }
        )
    return gradients_of_examples, labels
