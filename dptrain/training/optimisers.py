"""Updates of a stack of models by torch's functional optimisers: their memory lies in the State."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from dptrain.core.types import Optimiser, OptimiserKind, Schedule

Moments = dict[str, dict[str, Tensor]]
"""Parameter name -> what the optimiser remembers of it, by torch's names."""

SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    Schedule.CONSTANT: lambda _done: 1.0,
    Schedule.LINEAR: lambda done: 1.0 - done,
    Schedule.COSINE: lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
}
"""Share of the steps done -> factor of the learning rate."""


def rate(plan: Optimiser, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0."""
    rising = min(1.0, (step + 1) / (plan.warmup * steps)) if plan.warmup else 1.0
    return plan.learning_rate * rising * SCHEDULES[plan.schedule](step / steps)


def _sgd(
    plan: Optimiser,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Moments,
    learning_rate: float,
) -> None:
    buffers: list[Tensor | None] = [
        moments.get(name, {}).get("momentum_buffer") for name in parameters
    ]
    sgd(
        list(parameters.values()),
        list(gradients.values()),
        buffers,
        weight_decay=plan.weight_decay,
        momentum=plan.momentum,
        lr=learning_rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for name, buffer in zip(parameters, buffers, strict=True):
        if buffer is not None:
            moments.setdefault(name, {})["momentum_buffer"] = buffer


def _adamw(
    plan: Optimiser,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Moments,
    learning_rate: float,
) -> None:
    for name, value in parameters.items():
        if name not in moments:
            zeros = {key: torch.zeros_like(value) for key in ("exp_avg", "exp_avg_sq")}
            moments[name] = {"step": torch.tensor(0.0), **zeros}
    adamw(
        list(parameters.values()),
        list(gradients.values()),
        [moments[name]["exp_avg"] for name in parameters],
        [moments[name]["exp_avg_sq"] for name in parameters],
        [],
        [moments[name]["step"] for name in parameters],
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=learning_rate,
        weight_decay=plan.weight_decay,
        eps=1e-8,
        maximize=False,
    )


Update = Callable[
    [Optimiser, Mapping[str, Tensor], Mapping[str, Tensor], Moments, float],
    None,
]
"""(plan, parameters, gradients, moments, learning rate): moves parameters and moments in place."""

OPTIMISERS: dict[OptimiserKind, Update] = {OptimiserKind.SGD: _sgd, OptimiserKind.ADAMW: _adamw}
"""All act on each number by itself, so a stack of models takes the same steps as each model alone.
"""
