"""One loop for plain SGD and DP-SGD, K models stacked.

Plain SGD is the loop with clip = infinity and noise multiplier 0. Abadi et al. 2016, algorithm 1: Poisson batch, clip each
example, sum, add noise, divide by the expected batch size, optimiser step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dptrain import sampling
from dptrain.augment import augment, draw
from dptrain.clipping import clipper, stack
from dptrain.engines import ENGINES
from dptrain.noise import GaussianNoise
from dptrain.regularise import Regulariser
from dptrain.types import Mechanism, Recipe, Sampling, Setting

OPTIMISERS: dict[str, Callable[[list[nn.Parameter], Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda own, recipe: torch.optim.SGD(own, lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay),
    "adamw": lambda own, recipe: torch.optim.AdamW(own, lr=1.0, weight_decay=recipe.weight_decay),
}
"""All act on each number by itself, so a stack of models takes the same steps as each model alone."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
}
"""Share of the steps done -> factor of the learning rate."""


@dataclass
class State:
    """All that a later step depends on: parameters, their moving average (empty without one; with early stopping, the best so far, and
    `kept` holds its "loss" [K]; with an adversary, the adversary), what the optimiser keeps for each parameter
    by name and by its own key, and the number of steps done. Tensors are [K, *shape] but for an optimiser's count."""

    parameters: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    step: int = 0

    @staticmethod
    def start(models: Sequence[nn.Module]) -> State:
        return State(stack(models))

    @property
    def released(self) -> dict[str, Tensor]:
        """What training is for: the average where there is one. Of private models it is post-processing of private iterates, so it costs no privacy."""
        return self.average or self.parameters

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under one name, for a file."""
        flat = {f"{part}/{name}": value for part in ("parameters", "average", "kept") for name, value in getattr(self, part).items()}
        moments = {f"moments/{key}/{name}": value for name, kept in self.moments.items() for key, value in kept.items()}
        return flat | {label: value for label, value in moments.items() if value is not None}  # SGD keeps None without momentum

    @staticmethod
    def of(tensors: Mapping[str, Tensor], step: int) -> State:
        """The inverse of `tensors`."""
        state = State({}, step=step)
        for label, value in tensors.items():
            part, rest = label.split("/", 1)
            if part == "moments":
                key, name = rest.split("/", 1)
                state.moments.setdefault(name, {})[key] = value
            else:
                getattr(state, part)[rest] = value
        return state

    def to(self, device: torch.device) -> State:
        # An optimiser's step count stays where torch wants it, on the CPU.
        return State.of({name: value.to(device) if value.dim() else value for name, value in self.tensors().items()}, self.step)


class _Gather:
    """inputs[indices] into one buffer that is kept, since a fresh one each step costs as much as the matrix products."""

    def __init__(self, inputs: Tensor):
        self._inputs, self._shape = inputs.flatten(1), inputs.shape[1:]
        self._buffer = self._inputs.new_empty((0, self._inputs.shape[1]))

    def __call__(self, indices: Tensor) -> Tensor:
        count = indices.numel()
        if len(self._buffer) < count:
            self._buffer = self._inputs.new_empty((count, self._inputs.shape[1]))
        torch.index_select(self._inputs, 0, indices.flatten(), out=self._buffer[:count])
        return self._buffer[:count].view(*indices.shape, *self._shape)


OnStep = Callable[[State, Tensor, Tensor], None]
Charge = Callable[[int, Mechanism, float], None]
"""(step, mechanism, standard deviation of the noise), called before the noise of a step is drawn; what it raises stops the draw"""


def train(
    model: nn.Module,
    setting: Setting,
    engine: str,
    state: State,
    keys: Sequence[bytes],
    inputs: Tensor,
    labels: Tensor,
    membership: np.ndarray,
    on_step: OnStep,
    physical_batch: int | None = None,
    charge: Charge | None = None,
    outside: tuple[Tensor, Tensor] | None = None,
) -> Mechanism:
    """Take `state` from its step to the setting's last; return the mechanism that ran.

    model: the architecture (its own values are not used); keys: K secret keys; inputs [N, *shape], labels [N], on the device of
    `state`; membership: bool [K, N]. on_step(state, losses [K, B], weights [K, B]) is called after every whole step; what it raises
    ends training with `state` whole, so it may save and stop. Batches, views and noise are functions of (key, step) alone.
    physical_batch: examples of one model in memory at once, with all their views; a larger batch is summed in parts within its step.
    outside: inputs and labels that no model trains on, for an adversary.
    Raises ValueError for a sampling other than Poisson, which this loop does not do.
    """
    if setting.mechanism.sampling is not Sampling.POISSON:
        raise ValueError(f"this loop draws Poisson batches, and the plan says {setting.mechanism.sampling}")
    ran, recipe = setting.mechanism, setting.recipe
    device = inputs.device
    clipped_sum = ENGINES[engine](model, recipe.precision)
    noise_std = ran.noise_multiplier * ran.clip if ran.private else 0.0
    factor = clipper(recipe.clipping, ran.clip, ran.spacing)
    gather = _Gather(inputs)
    # Everything goes in the model's own order: noise is dealt out by position, and a file gives names back in any order.
    stacked = {name: state.parameters[name] for name, _ in model.named_parameters()}
    sizes = [value[0].numel() for value in stacked.values()]
    noise = GaussianNoise(len(keys), sum(sizes)) if ran.private else None
    gradients = {name: torch.zeros_like(value) for name, value in stacked.items()}
    parts = {name: torch.zeros_like(value) for name, value in stacked.items()} if physical_batch else {}
    optimiser = _optimiser(recipe, stacked, gradients, state)
    regulariser = Regulariser.of(recipe, keys, ran.public_n // ran.batch_size, state.kept, device)
    for step in range(state.step, ran.steps):
        batches = [sampling.poisson(key, step, own, ran.batch_size, ran.public_n) for key, own in zip(keys, membership, strict=True)]
        indices, weights = (torch.from_numpy(array).to(device) for array in sampling.pad(batches))
        drawn = draw(keys, step, [len(own) for own in batches], recipe.multiplicity).to(device) if recipe.augmentations else None
        losses = torch.zeros(indices.shape, device=device)
        width = indices.shape[1]
        if regulariser is not None:
            regulariser.start(step, [len(own) for own in batches], width)
            if recipe.adversary:
                regulariser.oppose(stacked, clipped_sum, outside, ran.batch_size)
        for start in range(0, width, physical_batch or width):
            at = slice(start, start + (physical_batch or width))
            target = parts if start else gradients
            seen = _views(recipe, gather(indices[:, at]), drawn[:, at] if drawn is not None else None)
            if regulariser is not None:

                def partners(rows: Tensor, drawn: Tensor | None = drawn, indices: Tensor = indices) -> tuple[Tensor, Tensor]:
                    others = indices.gather(1, rows)
                    views = drawn.gather(1, rows[..., None, None].expand(-1, -1, *drawn.shape[2:])) if drawn is not None else None
                    return _views(recipe, gather(others), views), labels[others]

                seen = regulariser.mixed(seen, partners, at)
            losses[:, at] = clipped_sum(stacked, seen, labels[indices[:, at]], weights[:, at], factor, target, regulariser)
            if start:
                for name, gradient in gradients.items():
                    gradient.add_(parts[name])
        if noise is not None:
            if charge:
                charge(step, ran, noise_std)
            normals = noise.draw(keys, step).to(device).split(sizes, dim=1)
            for gradient, own in zip(gradients.values(), normals, strict=True):
                # In units of the grid the sum is whole from here on: what follows must not see the last digits.
                gradient.add_(own.view_as(gradient), alpha=noise_std / ran.spacing).round_()
        for gradient in gradients.values():
            gradient.mul_(ran.spacing / ran.divisor)
        for group in optimiser.param_groups:
            group["lr"] = rate(recipe, step, ran.steps)
        optimiser.step()
        state.step = step + 1
        _average(recipe, state)
        on_step(state, losses, weights)
    return replace(ran, steps=state.step)


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0."""
    rising = min(1.0, (step + 1) / (recipe.warmup * steps)) if recipe.warmup else 1.0
    return recipe.learning_rate * rising * SCHEDULES[recipe.schedule](step / steps)


def _views(recipe: Recipe, examples: Tensor, drawn: Tensor | None) -> Tensor:
    """[K, B, *shape] -> [K, B, V, *shape]."""
    if drawn is not None:
        return augment(recipe.augmentations, examples, drawn)
    return examples.unsqueeze(2).expand(-1, -1, recipe.multiplicity, *examples.shape[2:])


def _optimiser(recipe: Recipe, stacked: Mapping[str, Tensor], gradients: Mapping[str, Tensor], state: State) -> torch.optim.Optimizer:
    """An optimiser over the stack whose memory is state.moments."""
    parameters = {name: nn.Parameter(value) for name, value in stacked.items()}
    optimiser = OPTIMISERS[recipe.optimiser](list(parameters.values()), recipe)
    kept: dict[Any, Any] = optimiser.state
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
        kept[parameter].update(state.moments.get(name, {}))
        state.moments[name] = kept[parameter]  # one and the same dict: torch fills it in its first step
    return optimiser


def keep_best(state: State, losses: Tensor) -> None:
    """Early stopping: of each model keep the parameters as they are now if its loss, of losses [K] on data that no model trains on, is the least so far."""
    if not state.kept:
        state.kept = {"loss": torch.full_like(losses, math.inf)}
        state.average = {name: value.clone() for name, value in state.parameters.items()}
    better = losses < state.kept["loss"]
    state.kept["loss"] = torch.where(better, losses, state.kept["loss"])
    for name, value in state.parameters.items():
        state.average[name] = torch.where(better.view(-1, *[1] * (value.dim() - 1)), value, state.average[name])


def _average(recipe: Recipe, state: State) -> None:
    """The moving average, its decay at most (1 + t) / (10 + t) as in De et al. 2022's code, so that early iterates are soon forgotten."""
    if not recipe.average:
        return
    if not state.average:
        state.average = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    decay = min(recipe.average, (1 + state.step) / (10 + state.step)) if state.step > 1 else 0.0
    for name, value in state.parameters.items():
        state.average[name].lerp_(value, 1 - decay)
