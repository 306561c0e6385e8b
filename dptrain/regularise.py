"""What plain training may add against memorising: dropout, label smoothing, mixup, RelaxLoss, an adversary. Nothing is proved of any of them.

Draws come from each model's own keystream, so they do not depend on stack width, padding or a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.adversary import Adversary
from dptrain.sampling import Purpose, fill, generator
from dptrain.types import Recipe

Stack = Mapping[str, Tensor]
LAYERS = 1024
"""More than any model has, so that (step, layer) is one number."""


@dataclass
class Regulariser:
    """Of K models. `start` makes the draws of a step; the rest is asked about the part `at` of its batch, and of K * B * V inputs."""

    recipe: Recipe
    keys: Sequence[bytes]
    epoch_steps: int
    kept: dict[str, Tensor]
    device: torch.device
    _step: int = 0
    _counts: list[int] = field(default_factory=list)
    _width: int = 0
    _partners: Tensor | None = None
    _share: Tensor | None = None
    _labels: Tensor | None = None
    _adversary: Adversary | None = None
    _outside: tuple[Tensor, Tensor] | None = None
    _at: slice = field(default_factory=lambda: slice(None))

    @staticmethod
    def of(recipe: Recipe, keys: Sequence[bytes], epoch_steps: int, kept: dict[str, Tensor], device: torch.device) -> Regulariser | None:
        """None where the recipe has none of it. kept: what an adversary goes on with after a restart."""
        return Regulariser(recipe, keys, max(1, epoch_steps), kept, device) if recipe.regularised else None

    def start(self, step: int, counts: Sequence[int], width: int) -> None:
        self._step, self._counts, self._width = step, list(counts), width
        if self.recipe.mixup:
            partners = np.tile(np.arange(width), (len(self.keys), 1))
            shares = []
            for row, key, count in zip(partners, self.keys, counts, strict=True):
                rng = generator(key, Purpose.REGULARISER, step)
                shares.append(rng.beta(self.recipe.mixup, self.recipe.mixup))
                row[:count] = rng.permutation(count)
            self._partners = torch.from_numpy(partners).to(self.device)
            self._share = torch.tensor(shares, dtype=torch.float32, device=self.device)

    def oppose(self, parameters: Stack, engine: Any, outside: tuple[Tensor, Tensor] | None, count: int) -> None:
        """Let the adversary see what the models say about `count` random examples of `outside`, inputs and labels that none trains on."""
        if outside is None:
            raise ValueError("an adversary needs examples that no model trains on")
        inputs, labels = outside
        rows = np.stack([generator(key, Purpose.QUERY, self._step).integers(0, len(labels), count) for key in self.keys])
        drawn = torch.from_numpy(rows).to(self.device)
        said = engine.logits(parameters, inputs[drawn])
        self._adversary = self._adversary or Adversary(self.keys, said.shape[-1], self.kept, self.device)
        self._outside = (said, labels[drawn])

    def mixed(self, seen: Tensor, other: Callable[[Tensor], tuple[Tensor, Tensor]], at: slice) -> Tensor:
        """Views [K, B, V, *shape], each mixed with those of its partner; other(partners [K, B]) gives their views and labels (Zhang et al.
        2018, equation 1; one share for each model and step)."""
        self._at = at
        if self._partners is None or self._share is None:
            return seen
        seen = seen.clone()  # the partners are gathered into the same buffer
        views, self._labels = other(self._partners[:, at])
        return torch.lerp(views, seen, self._share.view(-1, *[1] * (seen.dim() - 1)))

    def dropped(self, layer: int, inputs: Tensor) -> Tensor:
        """Inputs [K * B * V, ...] of a layer with a share of them zero and the rest scaled up (Srivastava et al. 2014); the first layer's are
        the example itself and stay."""
        if not self.recipe.dropout or layer == 0 or not inputs.is_floating_point():
            return inputs
        models, part = len(self.keys), len(range(*self._at.indices(self._width)))
        each = inputs.numel() // (models * part)
        bits = np.zeros((models, self._width, each), np.uint8)
        for row, key, count in zip(bits, self.keys, self._counts, strict=True):
            if count:
                fill(key, Purpose.REGULARISER, self._step * LAYERS + layer, row[:count])
        below = round(self.recipe.dropout * 256)
        kept = torch.from_numpy(bits[:, self._at] >= below).to(inputs.device).view(inputs.shape)
        return inputs * kept * (256 / (256 - below))

    def objective(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """logits [K, B, V, C], labels and weights [K, B] -> what is minimised, [K, B]."""
        losses = self._smoothed(logits, labels)
        if self._labels is not None and self._share is not None:
            share = self._share[:, None]
            losses = share * losses + (1 - share) * self._smoothed(logits, self._labels)
        if self._adversary is not None and self._outside is not None:
            said = logits.mean(2)
            self._adversary.learn((said, labels, weights), self._outside)
            # Nasr et al. 2018, equation 6: the attacker's gain, the logarithm of its odds' probability, is added to the loss.
            losses = losses + self.recipe.adversary * nn.functional.logsigmoid(self._adversary.odds(said, labels))
        return self._relaxed(logits, labels, losses, weights) if self.recipe.relax else losses

    def _smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        repeated = labels[..., None].expand(logits.shape[:-1])
        found = nn.functional.cross_entropy(
            logits.flatten(0, 2), repeated.flatten(), reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        return found.view(repeated.shape).mean(-1)

    def _relaxed(self, logits: Tensor, labels: Tensor, losses: Tensor, weights: Tensor) -> Tensor:
        """Chen et al. 2022, algorithm 1: a model whose mean loss lies below the target climbs in even passes, and in odd ones learns its own
        confidence in the true class with the rest spread evenly."""
        means = torch.where(weights, losses, 0).sum(1) / weights.sum(1).clamp(min=1)
        low = (means.detach() < self.recipe.relax)[:, None]
        if self._step // self.epoch_steps % 2 == 0:
            return torch.where(low, -losses, losses)
        logs = logits.log_softmax(-1)
        true = labels[..., None, None].expand(*logits.shape[:-1], 1)
        own = logs.detach().exp().gather(-1, true)
        rest = (1 - own) / (logits.shape[-1] - 1)
        at_true = logs.gather(-1, true)
        soft = -(own * at_true + rest * (logs.sum(-1, keepdim=True) - at_true))
        return torch.where(low, soft.squeeze(-1).mean(-1), losses)


def masked(logits: np.ndarray, top: int, digits: int) -> np.ndarray:
    """Logits [..., C] whose softmax is what a service tells: the `top` largest probabilities rounded to `digits` decimals, the rest alike.

    The order of the largest is kept by the smallest step there is, so the predicted class stays (as MemGuard demands; Jia et al. 2019).
    """
    unit = 10.0**-digits
    wide = logits.astype(np.float64)
    told = np.exp(wide - wide.max(-1, keepdims=True))
    told /= told.sum(-1, keepdims=True)
    order = np.argsort(-told, axis=-1, kind="stable")
    ranked = np.round(np.take_along_axis(told, order, -1) / unit) * unit
    shown = min(top, logits.shape[-1])
    left = np.clip(1 - ranked[..., :shown].sum(-1, keepdims=True), 0, None)
    ranked[..., shown:] = left / max(1, logits.shape[-1] - shown)
    ranked[..., 0] += unit / 2
    out = np.empty_like(ranked)
    np.put_along_axis(out, order, np.log(np.maximum(ranked, unit / logits.shape[-1])), -1)
    return out.astype(logits.dtype)
