"""One loop for plain SGD and DP-SGD, K models stacked.

A frozen Trainer is what never changes in a run, a State is what does, and train_step goes from one
state to the next. The loop draws batches, charges the ledger, draws noise and calls it. Plain SGD
is the loop with clip = infinity and noise multiplier 0. Abadi et al. 2016, algorithm 1: Poisson
batch, clip each example, sum, add noise, divide by the expected batch size, optimiser step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from dptrain.core import streams
from dptrain.core.types import EngineKind, Mechanism, Recipe, Sampling, Setting, Unit
from dptrain.training import adversary, augmentation
from dptrain.training.gradients.base import Clipper, Engine, Watched
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.gradients.stacked import StackedEngine
from dptrain.training.noise import gaussian_noise
from dptrain.training.optimisers import OPTIMISERS, rate
from dptrain.training.products import Products, float32
from dptrain.training.regularisers import Draws, StepLoss
from dptrain.training.state import State, average


@dataclass(frozen=True)
class TrainingData:
    """inputs [N, *shape] and labels [N], or the targets of a regression, on the device of the
    models; membership bool [K, N], who trains on what; outside: inputs and labels that no model
    trains on, for an adversary. users: whose the examples are, where users are drawn; membership is
    theirs then, [K, U]. class_weights: what the loss of an example of each class is multiplied by,
    [C].
    """

    inputs: Tensor
    labels: Tensor
    membership: np.ndarray
    outside: tuple[Tensor, Tensor] | None = None
    users: streams.Users | None = None
    class_weights: Tensor | None = None


class _Buffers:
    """Memory that is used again in every step, since fresh tensors cost as much as the matrix
    products. What lies in it means nothing from one step to the next.
    """

    def __init__(self) -> None:
        self._gathered: Tensor | None = None
        self._sums: dict[str, dict[str, Tensor]] = {}

    def gather(self, inputs: Shaped[Tensor, "N ..."], indices: Int[Tensor, "K b"]) -> Tensor:
        """inputs[indices]; valid until the next call."""
        flat, count = inputs.flatten(1), indices.numel()
        if self._gathered is None or len(self._gathered) < count:
            self._gathered = flat.new_empty((count, flat.shape[1]))
        torch.index_select(flat, 0, indices.flatten(), out=self._gathered[:count])
        return self._gathered[:count].view(*indices.shape, *inputs.shape[1:])

    def sums(self, name: str, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the parameters' shapes, holding anything."""
        if name not in self._sums:
            self._sums[name] = {key: torch.zeros_like(value) for key, value in parameters.items()}
        return self._sums[name]


@dataclass(frozen=True)
class Trainer:
    """What never changes in a run of K models.

    keys: the secret key of each model. engine: computes sums of clipped gradients. physical_batch:
    examples of one model in memory at once, with all their views; a larger batch is summed in parts
    within its step; None for no limit. products: which library multiplies.
    """

    mechanism: Mechanism
    recipe: Recipe
    engine: Engine
    keys: Sequence[bytes]
    data: TrainingData
    names: tuple[str, ...]
    physical_batch: int | None = None
    products: Products = Products.DEFAULT
    buffers: _Buffers = field(default_factory=_Buffers, repr=False)

    @staticmethod
    def of(
        model: nn.Module,
        setting: Setting,
        engine: EngineKind,
        keys: Sequence[bytes],
        data: TrainingData,
        physical_batch: int | None = None,
        products: Products = Products.DEFAULT,
    ) -> Trainer:
        """A trainer of models of the architecture `model`, whose own values are not used.

        Raises ValueError for a sampling other than Poisson, which this loop does not do, and for an
        adversary without examples that no model trains on.
        """
        ran, recipe = setting.mechanism, setting.recipe
        if ran.sampling != Sampling.POISSON:
            raise ValueError(f"this loop draws Poisson batches, and the plan says {ran.sampling}")
        if (ran.unit == Unit.USER) != (data.users is not None):
            raise ValueError(f"the plan draws units of kind {ran.unit}, and the data others")
        if recipe.regularisation.adversary and data.outside is None:
            raise ValueError("an adversary needs examples that no model trains on")
        built = ENGINES[engine](model, recipe.precision)
        built.kind = recipe.loss
        # Everything goes in the model's own order: noise is dealt out by position, and a file
        # gives names back in any order.
        names = tuple(name for name, _ in model.named_parameters())
        return Trainer(ran, recipe, built, keys, data, names, physical_batch, products)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on a clipped sum; 0 without privacy."""
        return self.mechanism.noise_std


@dataclass(frozen=True)
class StepBatch:
    """The batches of one step side by side: indices [K, B], weights bool [K, B] (False for
    padding), the number of units of each model, and the draws [K, B, V, 3] of their views. Of
    users, examples [K, B, V] are the places of theirs, and shares [K, B, V] those in the mean.
    """

    indices: Tensor
    weights: Tensor
    counts: Sequence[int]
    views: Tensor | None
    examples: Tensor | None = None
    shares: Tensor | None = None


@dataclass(frozen=True)
class StepRecord:
    """What a step saw: losses [K, B] from before it, weights bool [K, B] of its examples, and the
    norms of their gradients before they were clipped, [n] of all models together, nan for padding:
    none where nothing is clipped.
    """

    losses: Tensor
    weights: Tensor
    norms: Tensor


OnStep = Callable[[State, StepRecord], None]
"""Called after every whole step; what it raises ends training with the state whole."""
Charge = Callable[[int, Mechanism, float], None]
"""(step, mechanism, standard deviation of the noise), called before the noise of a step is drawn;
what it raises stops the draw.
"""


def train(
    trainer: Trainer,
    state: State,
    on_step: OnStep,
    charge: Charge | None = None,
    until: int | None = None,
) -> tuple[State, Mechanism]:
    """Take `state` from its step to step `until`, or to the last one; return it, and the mechanism
    that ran so far.

    Batches, views and noise are functions of (key, step) alone. `state` is used up.
    """
    ran = trainer.mechanism
    noise = None
    if ran.private:
        size = sum(state.parameters[name][0].numel() for name in trainer.names)
        noise = gaussian_noise(len(trainer.keys), size, trainer.data.inputs.device)
    last = ran.steps if until is None else min(until, ran.steps)
    for step in range(state.step, last):
        batch = draw_batch(trainer, step)
        normals = None
        if noise is not None:
            if charge:
                charge(step, ran, trainer.noise_std)
            normals = noise.draw(trainer.keys, step)
        with float32(trainer.products, trainer.data.inputs.device.type):
            state, record = train_step(trainer, state, batch, normals)
        on_step(state, record)
    return state, replace(ran, steps=state.step)


def draw_batch(trainer: Trainer, step: int) -> StepBatch:
    """The Poisson batches of one step of all models, which may be empty."""
    ran, views, data = trainer.mechanism, trainer.recipe.views, trainer.data
    batches = [
        streams.poisson(key, step, members, ran.batch_size, ran.public_n)
        for key, members in zip(trainer.keys, data.membership, strict=True)
    ]
    device = data.inputs.device
    padded = streams.pad(batches)
    indices, weights = (torch.from_numpy(array).to(device) for array in padded)
    counts = [len(batch) for batch in batches]
    drawn = None
    if views.augmentations:
        drawn = augmentation.draw(trainer.keys, step, counts, views.multiplicity).to(device)
    if data.users is None:
        return StepBatch(indices, weights, counts, drawn)
    most, everyone = trainer.recipe.examples_per_user, padded[0]
    theirs = [
        data.users.draw(key, step, users, most)
        for key, users in zip(trainer.keys, everyone, strict=True)
    ]
    examples, shares = (
        torch.from_numpy(np.stack(each)).to(device) for each in zip(*theirs, strict=True)
    )
    return StepBatch(indices, weights, counts, drawn, examples, shares)


def train_step(
    trainer: Trainer, state: State, batch: StepBatch, normals: Float[Tensor, "K P"] | None
) -> tuple[State, StepRecord]:
    """One step: the sum of clipped gradients, its noise from standard normals [K, P], the divisor,
    the optimiser.

    A function of its arguments alone. The tensors of `state` are used up: those of the state that
    is returned stand in their place. Raises ValueError for a private step without noise, and for
    noise in any other.
    """
    if trainer.mechanism.private != (normals is not None):
        raise ValueError("a private step needs noise, and no other step takes any")
    parameters = {name: state.parameters[name] for name in trainer.names}
    gradients = trainer.buffers.sums("whole", parameters)
    losses, norms = _sum_gradients(trainer, state, batch, parameters, gradients)
    ran = trainer.mechanism
    if normals is not None:
        add_noise(gradients, normals, trainer.noise_std / ran.spacing)
    for gradient in gradients.values():
        gradient.mul_(ran.spacing / ran.divisor)
    plan = trainer.recipe.optimiser
    learning_rate = rate(plan, state.step, ran.steps)
    OPTIMISERS[plan.kind](plan, parameters, gradients, state.moments, learning_rate)
    state = state.next()
    average(state, trainer.recipe.release.average)
    return state, StepRecord(losses, batch.weights, norms)


def add_noise(sums: dict[str, Tensor], normals: Float[Tensor, "K P"], std: float) -> None:
    """Add noise to clipped sums, each [K, *shape], that are in units of the grid.

    From here on they are whole numbers: what follows must not see the last digits.
    """
    sizes = [value[0].numel() for value in sums.values()]
    device = next(iter(sums.values())).device
    for total, drawn in zip(sums.values(), normals.to(device).split(sizes, dim=1), strict=True):
        total.add_(drawn.view_as(total), alpha=std).round_()


def _sum_gradients(
    trainer: Trainer,
    state: State,
    batch: StepBatch,
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Fill `gradients` with the sums of a step, in parts that memory holds; losses [K, B], and the
    norms of the gradients that were clipped, [n].
    """
    ran, labels = trainer.mechanism, trainer.data.labels
    clipper = Clipper.of(trainer.recipe.clipping, ran.clip, ran.spacing)
    norms: list[Tensor] = []
    width = batch.indices.shape[1]
    loss = _step_loss(trainer, state, batch, parameters)
    losses = torch.zeros(batch.indices.shape, device=batch.indices.device)
    part_size = trainer.physical_batch or width
    for start in range(0, width, part_size):
        at = slice(start, start + part_size)
        rows, weights = batch.indices[:, at], batch.weights[:, at]
        factor = None if clipper is None else Watched(clipper, weights, norms)
        out = trainer.buffers.sums("part", parameters) if start else gradients
        of_part, seen = _seen(trainer, batch, at, loss)
        of_units = labels[rows if batch.examples is None else batch.examples[:, at]]
        shares = _shares(trainer, batch, at, of_units, seen.shape[2])
        losses[:, at] = trainer.engine(
            parameters, seen, of_units, weights, factor, out, of_part, shares
        )
        if start:
            for name, gradient in gradients.items():
                gradient.add_(out[name])
    return losses, torch.cat(norms) if norms else losses.new_empty(0)


def _shares(
    trainer: Trainer, batch: StepBatch, at: slice, labels: Shaped[Tensor, "K b ..."], views: int
) -> Tensor | None:
    """What each view's loss counts for in its unit's, [K, b, V]; None for equal shares."""
    shares = None if batch.shares is None else batch.shares[:, at]
    if trainer.data.class_weights is None:
        return shares
    of_class = trainer.data.class_weights[labels]
    if shares is not None:
        return shares * of_class
    return (of_class / views)[..., None].expand(*of_class.shape, views)


def _seen(
    trainer: Trainer, batch: StepBatch, at: slice, loss: StepLoss | None
) -> tuple[StepLoss | None, Tensor]:
    """What the models see of a part of the batch, [K, b, V, *shape], and the loss of that part."""
    data, buffers = trainer.data, trainer.buffers
    if batch.examples is not None:
        theirs = batch.examples[:, at]
        seen = buffers.gather(data.inputs, theirs.flatten(1))
        return None, seen.unflatten(1, theirs.shape[1:])

    def views(rows: Int[Tensor, "K b"], drawn: Int[Tensor, "K b V 3"] | None) -> Tensor:
        """Of examples [K, b]: [K, b, V, *shape]."""
        plan, examples = trainer.recipe.views, buffers.gather(data.inputs, rows)
        if drawn is not None:
            return augmentation.augment(plan.augmentations, examples, drawn)
        return examples.unsqueeze(2).expand(-1, -1, plan.multiplicity, *examples.shape[2:])

    def partners(places: Int[Tensor, "K b"]) -> tuple[Tensor, Tensor]:
        """Views and labels of the examples at places [K, b] of the whole batch."""
        rows, drawn = batch.indices.gather(1, places), batch.views
        if drawn is not None:
            drawn = drawn.gather(1, places[..., None, None].expand(-1, -1, *drawn.shape[2:]))
        return views(rows, drawn), data.labels[rows]

    seen = views(batch.indices[:, at], batch.views[:, at] if batch.views is not None else None)
    return (None, seen) if loss is None else loss.mixed(seen, partners, at)


def _step_loss(
    trainer: Trainer, state: State, batch: StepBatch, parameters: dict[str, Tensor]
) -> StepLoss | None:
    """What the step minimises instead of the cross-entropy. An adversary starts with the first
    step, and lies in the state.
    """
    plan, ran, data = trainer.recipe.regularisation, trainer.mechanism, trainer.data
    draws = Draws(trainer.keys, state.step, batch.counts, batch.indices.shape[1])
    device = data.inputs.device
    loss = StepLoss.of(plan, draws, ran.public_n // ran.batch_size, device)
    if loss is None or not plan.adversary:
        return loss
    assert data.outside is not None
    assert isinstance(trainer.engine, StackedEngine)
    inputs, labels = data.outside
    count = labels.numel()
    rows = torch.from_numpy(_queries(trainer.keys, state.step, count, ran.batch_size))
    rows = rows.to(device)
    logits = trainer.engine.logits(parameters, inputs[rows])
    if not state.attacker:
        state.attacker |= adversary.start(trainer.keys, logits.shape[-1], device)
    return replace(loss, attacker=state.attacker, outside=(logits, labels[rows]))


def _queries(keys: Sequence[bytes], step: int, examples: int, count: int) -> np.ndarray:
    """`count` random examples of the population for each of K models, [K, count]."""
    streams_of_models = [streams.generator(key, streams.Purpose.QUERY, step) for key in keys]
    return np.stack([each.integers(0, examples, count) for each in streams_of_models])
