"""One loop for plain SGD and DP-SGD, K models stacked.

Plain SGD is the loop with clip = infinity and noise multiplier 0. Abadi et al. 2016, algorithm 1: Poisson batch, clip each
example, sum, add noise, divide by the expected batch size, optimiser step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dptrain import sampling
from dptrain.clipping import ENGINES, stack
from dptrain.noise import GaussianNoise
from dptrain.types import Mechanism, Setting


@dataclass
class State:
    """All that a later step depends on: parameters and momentum, each name to [K, *shape], and the number of steps done."""

    parameters: dict[str, Tensor]
    momentum: dict[str, Tensor]
    step: int = 0

    @staticmethod
    def start(models: Sequence[nn.Module]) -> State:
        parameters = stack(models)
        return State(parameters, {name: torch.zeros_like(value) for name, value in parameters.items()})

    def to(self, device: torch.device) -> State:
        def move(part: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in part.items()}

        return State(move(self.parameters), move(self.momentum), self.step)


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
) -> Mechanism:
    """Take `state` from its step to the setting's last; return the mechanism that ran.

    model: the architecture (its own values are not used); keys: K secret keys; inputs [N, *shape], labels [N], on the device of
    `state`; membership: bool [K, N]. on_step(state, losses [K, B], weights [K, B]) is called after every whole step; what it raises
    ends training with `state` whole, so it may save and stop. Batches and noise are functions of (key, step) alone.
    """
    ran = setting.mechanism
    device = inputs.device
    clipped_sum = ENGINES[engine](model)
    gather = _Gather(inputs)
    # Everything goes in the model's own order: noise is dealt out by position, and a file gives names back in any order.
    stacked = {name: state.parameters[name] for name, _ in model.named_parameters()}
    sizes = [value[0].numel() for value in stacked.values()]
    noise = GaussianNoise(len(keys), sum(sizes)) if ran.private else None
    gradients = {name: torch.zeros_like(value) for name, value in stacked.items()}
    parameters = {name: nn.Parameter(value) for name, value in stacked.items()}
    optimiser = torch.optim.SGD(parameters.values(), lr=setting.learning_rate, momentum=setting.momentum)
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
        if setting.momentum:
            optimiser.state[parameter]["momentum_buffer"] = state.momentum[name]
    for step in range(state.step, ran.steps):
        batches = [sampling.poisson(key, step, own, ran.batch_size, ran.public_n) for key, own in zip(keys, membership, strict=True)]
        indices, weights = (torch.from_numpy(array).to(device) for array in sampling.pad(batches))
        losses = clipped_sum(stacked, gather(indices), labels[indices], weights, ran.clip, gradients)
        if noise is not None:
            drawn = noise.draw(keys, step).to(device).split(sizes, dim=1)
            for gradient, normals in zip(gradients.values(), drawn, strict=True):
                gradient.add_(normals.view_as(gradient), alpha=ran.noise_multiplier * ran.clip)
        for gradient in gradients.values():
            gradient.div_(ran.divisor)
        optimiser.step()
        state.step = step + 1
        on_step(state, losses, weights)
    return replace(ran, steps=state.step)
