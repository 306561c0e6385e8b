"""Adversarial regularisation (Nasr, Shokri and Houmansadr 2018): a model learns against an attacker
who learns from its predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.adam import adam

from dptrain.core.streams import Purpose, generator

HIDDEN = 64
LEARNING_RATE = 1e-3
LAYERS = ("first", "second")

Attacker = dict[str, Tensor]
"""All that one attacker for each of K models is: its layers [K, ...] (the last row is the bias),
Adam's moments of each, and the number of steps taken.
"""


def start(keys: Sequence[bytes], classes: int, device: torch.device) -> Attacker:
    """Attackers that have learned nothing, of two layers from (prediction, label) to odds."""
    shapes = {"first": (2 * classes + 1, HIDDEN), "second": (HIDDEN + 1, 1)}
    attacker: Attacker = {"steps": torch.zeros(())}
    for number, (name, shape) in enumerate(shapes.items()):
        streams = [generator(key, Purpose.INITIALISATION, number) for key in keys]
        drawn = np.stack([each.standard_normal(shape, dtype=np.float32) for each in streams])
        attacker[name] = torch.from_numpy(drawn * (2 / shape[0]) ** 0.5).to(device)
        for moment in ("mean", "square"):
            attacker[f"{name}_{moment}"] = torch.zeros_like(attacker[name])
    return attacker


def odds(
    attacker: Mapping[str, Tensor], logits: Float[Tensor, "K N C"], labels: Int[Tensor, "K N"]
) -> Tensor:
    """Logarithm of the odds that each example is a member: logits [K, N, C], labels [K, N] ->
    [K, N].
    """
    first, second = attacker["first"], attacker["second"]
    label = nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    seen = torch.cat([logits.softmax(-1), label], -1)
    inner = torch.relu(torch.baddbmm(first[:, -1:], seen, first[:, :-1]))
    return torch.baddbmm(second[:, -1:], inner, second[:, :-1])[..., 0]


def learn(
    attacker: Attacker,
    inside: tuple[Tensor, Tensor, Tensor],
    outside: tuple[Tensor, Tensor],
) -> None:
    """One step of Adam (Kingma and Ba 2015), in place: inside are logits, labels and weights of
    members, outside logits and labels of the population.
    """
    logits, labels, weights = inside
    layers = {name: attacker[name].detach().requires_grad_() for name in LAYERS}
    with torch.enable_grad():
        members = nn.functional.softplus(-odds(layers, logits.detach(), labels))
        members = torch.where(weights, members, 0).sum(1) / weights.sum(1).clamp(min=1)
        others = nn.functional.softplus(odds(layers, outside[0].detach(), outside[1])).mean(1)
        slopes = torch.autograd.grad((members + others).sum(), list(layers.values()))
    adam(
        [attacker[name] for name in LAYERS],
        list(slopes),
        [attacker[f"{name}_mean"] for name in LAYERS],
        [attacker[f"{name}_square"] for name in LAYERS],
        [],
        [attacker["steps"].clone(), attacker["steps"]],
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=LEARNING_RATE,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )
