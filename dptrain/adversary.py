"""Adversarial regularisation (Nasr, Shokri and Houmansadr 2018): a model learns against an attacker who learns from its predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.sampling import Purpose, generator

HIDDEN = 64
RATE, FIRST, SECOND, TINY = 1e-3, 0.9, 0.999, 1e-8
"""Of Adam (Kingma and Ba 2015), with which the attackers learn."""


class Adversary:
    """One attacker for each of K models: two layers from (prediction, label) to the odds of membership.

    `kept` holds all that a restart needs: parameters and moments, each [K, ...], and the steps taken. It is filled if it is empty.
    """

    def __init__(self, keys: Sequence[bytes], classes: int, kept: dict[str, Tensor], device: torch.device):
        self._kept, self._classes = kept, classes
        if kept:
            return
        shapes = {"first": (2 * classes + 1, HIDDEN), "second": (HIDDEN + 1, 1)}  # the last row is the bias
        for number, (name, shape) in enumerate(shapes.items()):
            drawn = [generator(key, Purpose.INITIALISATION, number).standard_normal(shape, dtype=np.float32) for key in keys]
            kept[name] = torch.from_numpy(np.stack(drawn) * (2 / shape[0]) ** 0.5).to(device)
            kept[f"{name}_mean"], kept[f"{name}_square"] = torch.zeros_like(kept[name]), torch.zeros_like(kept[name])
        kept["steps"] = torch.zeros(len(keys), device=device)

    def odds(self, logits: Tensor, labels: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        """Logarithm of the odds that each example is a member: logits [K, N, C], labels [K, N] -> [K, N]."""
        first, second = self._kept["first"] if first is None else first, self._kept["second"] if second is None else second
        seen = torch.cat([logits.softmax(-1), nn.functional.one_hot(labels, self._classes).to(logits.dtype)], -1)
        inner = torch.relu(torch.baddbmm(first[:, -1:], seen, first[:, :-1]))
        return torch.baddbmm(second[:, -1:], inner, second[:, :-1])[..., 0]

    def learn(self, inside: tuple[Tensor, Tensor, Tensor], outside: tuple[Tensor, Tensor]) -> None:
        """One step: inside are logits, labels and weights of members, outside logits and labels of the population."""
        logits, labels, weights = inside
        own = [self._kept[name].detach().requires_grad_() for name in ("first", "second")]
        with torch.enable_grad():
            members = nn.functional.softplus(-self.odds(logits.detach(), labels, *own))
            members = torch.where(weights, members, 0).sum(1) / weights.sum(1).clamp(min=1)
            others = nn.functional.softplus(self.odds(outside[0].detach(), outside[1], *own)).mean(1)
            slopes = torch.autograd.grad((members + others).sum(), own)
        self._kept["steps"] += 1
        steps = self._kept["steps"][:, None, None]
        for name, slope in zip(("first", "second"), slopes, strict=True):
            mean, square = self._kept[f"{name}_mean"], self._kept[f"{name}_square"]
            mean.lerp_(slope, 1 - FIRST)
            square.lerp_(slope.square(), 1 - SECOND)
            size = (square / (1 - SECOND**steps)).sqrt() + TINY
            self._kept[name] -= RATE * mean / (1 - FIRST**steps) / size
