"""What plain training may add against memorising: dropout, label smoothing, mixup, RelaxLoss, an
adversary. Nothing is proved of any of them.

Draws come from each model's own keystream, so they do not depend on stack width, padding or a
restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import softmax
from torch import Tensor, nn

from dptrain.core.streams import Purpose, fill, generator
from dptrain.core.types import Regularisation
from dptrain.training import adversary

LAYERS = 1024
"""More than any model has, so that (step, layer) is one number."""


@dataclass(frozen=True)
class Draws:
    """A step of K models: their secret keys, its number, and how many examples each model has in
    it, of which the largest makes the width B of the batch.
    """

    keys: Sequence[bytes]
    step: int
    counts: Sequence[int]
    width: int


@dataclass(frozen=True)
class StepLoss:
    """What one step minimises instead of the cross-entropy, a transform without a memory.

    climbs: whether RelaxLoss raises losses below its target in this pass; partners [K, B] and share
    [K] of mixup; attacker and outside (logits [K, n, C], labels [K, n]) of an adversary; at: the
    part of the batch that is in memory, and partner_labels [K, b] of that part.
    """

    plan: Regularisation
    draws: Draws
    climbs: bool = False
    partners: Tensor | None = None
    share: Tensor | None = None
    attacker: adversary.Attacker | None = None
    outside: tuple[Tensor, Tensor] | None = None
    at: slice = field(default_factory=lambda: slice(None))
    partner_labels: Tensor | None = None

    @staticmethod
    def of(
        plan: Regularisation, draws: Draws, epoch_steps: int, device: torch.device
    ) -> StepLoss | None:
        """The transform of one step, with its draws; None where the plan has no regularisation."""
        if not plan.active:
            return None
        loss = StepLoss(plan, draws, climbs=draws.step // max(1, epoch_steps) % 2 == 0)
        if not plan.mixup:
            return loss
        partners = np.tile(np.arange(draws.width), (len(draws.keys), 1))
        shares = []
        for row, key, count in zip(partners, draws.keys, draws.counts, strict=True):
            rng = generator(key, Purpose.REGULARISER, draws.step)
            shares.append(rng.beta(plan.mixup, plan.mixup))
            row[:count] = rng.permutation(count)
        share = torch.tensor(shares, dtype=torch.float32, device=device)
        return replace(loss, partners=torch.from_numpy(partners).to(device), share=share)

    def mixed(
        self,
        seen: Float[Tensor, "K b V ..."],
        other: Callable[[Tensor], tuple[Tensor, Tensor]],
        at: slice,
    ) -> tuple[StepLoss, Tensor]:
        """The transform of the part `at` of the batch, and its views [K, b, V, *shape], each mixed
        with those of its partner (Zhang et al. 2018, equation 1; one share for each model and
        step). other(partners [K, b]) gives their views and labels.
        """
        if self.partners is None or self.share is None:
            return replace(self, at=at), seen
        seen = seen.clone()  # the partners are gathered into the same buffer
        views, labels = other(self.partners[:, at])
        share = self.share.view(-1, *[1] * (seen.dim() - 1))
        return replace(self, at=at, partner_labels=labels), torch.lerp(views, seen, share)

    def dropped(self, layer: int, inputs: Shaped[Tensor, "n ..."]) -> Tensor:
        """Inputs [K * b * V, ...] of a layer with a share of them zero and the rest scaled up
        (Srivastava et al. 2014); the first layer's are the example itself and stay.
        """
        if not self.plan.dropout or layer == 0 or not inputs.is_floating_point():
            return inputs
        draws = self.draws
        models, part = len(draws.keys), len(range(*self.at.indices(draws.width)))
        each = inputs.numel() // (models * part)
        bits = np.zeros((models, draws.width, each), np.uint8)
        for row, key, count in zip(bits, draws.keys, draws.counts, strict=True):
            if count:
                fill(key, Purpose.REGULARISER, draws.step * LAYERS + layer, row[:count])
        below = round(self.plan.dropout * 256)
        mask = torch.from_numpy(bits[:, self.at] >= below).to(inputs.device).view(inputs.shape)
        return inputs * mask * (256 / (256 - below))

    def objective(
        self,
        logits: Float[Tensor, "K b V C"],
        labels: Int[Tensor, "K b"],
        weights: Bool[Tensor, "K b"],
    ) -> Tensor:
        """logits [K, b, V, C], labels and weights [K, b] -> what is minimised, [K, b]."""
        losses = self._smoothed(logits, labels)
        if self.partner_labels is not None and self.share is not None:
            share = self.share[:, None]
            losses = share * losses + (1 - share) * self._smoothed(logits, self.partner_labels)
        if self.attacker is not None and self.outside is not None:
            seen = logits.mean(2)
            adversary.learn(self.attacker, (seen, labels, weights), self.outside)
            # Nasr et al. 2018, equation 6: the attacker's gain, the logarithm of its odds'
            # probability, is added to the loss.
            gain = nn.functional.logsigmoid(adversary.odds(self.attacker, seen, labels))
            losses = losses + self.plan.adversary * gain
        return self._relaxed(logits, labels, losses, weights) if self.plan.relax else losses

    def _smoothed(self, logits: Float[Tensor, "K b V C"], labels: Int[Tensor, "K b"]) -> Tensor:
        repeated = labels[..., None].expand(logits.shape[:-1])
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 2),
            repeated.flatten(),
            reduction="none",
            label_smoothing=self.plan.label_smoothing,
        )
        return losses.view(repeated.shape).mean(-1)

    def _relaxed(
        self,
        logits: Float[Tensor, "K b V C"],
        labels: Int[Tensor, "K b"],
        losses: Float[Tensor, "K b"],
        weights: Bool[Tensor, "K b"],
    ) -> Tensor:
        """Chen et al. 2022, algorithm 1: a model whose mean loss lies below the target climbs in
        even passes, and in odd ones learns its own confidence in the true class with the rest
        spread evenly.
        """
        means = torch.where(weights, losses, 0).sum(1) / weights.sum(1).clamp(min=1)
        low = (means.detach() < self.plan.relax)[:, None]
        if self.climbs:
            return torch.where(low, -losses, losses)
        logs = logits.log_softmax(-1)
        true = labels[..., None, None].expand(*logits.shape[:-1], 1)
        confidence = logs.detach().exp().gather(-1, true)
        rest = (1 - confidence) / (logits.shape[-1] - 1)
        at_true = logs.gather(-1, true)
        soft = -(confidence * at_true + rest * (logs.sum(-1, keepdim=True) - at_true))
        return torch.where(low, soft.squeeze(-1).mean(-1), losses)


def masked(logits: Float[np.ndarray, "*shape C"], top: int, digits: int) -> np.ndarray:
    """Logits [..., C] whose softmax is what a service tells: the `top` largest probabilities
    rounded to `digits` decimals, the rest alike.

    The order of the largest is kept by the smallest step there is, so the predicted class stays (as
    MemGuard demands; Jia et al. 2019).
    """
    unit = 10.0**-digits
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ranked = np.round(np.take_along_axis(probabilities, order, -1) / unit) * unit
    shown = min(top, logits.shape[-1])
    left = np.clip(1 - ranked[..., :shown].sum(-1, keepdims=True), 0, None)
    ranked[..., shown:] = left / max(1, logits.shape[-1] - shown)
    ranked[..., 0] += unit / 2
    out = np.empty_like(ranked)
    np.put_along_axis(out, order, np.log(np.maximum(ranked, unit / logits.shape[-1])), -1)
    return out.astype(logits.dtype)
