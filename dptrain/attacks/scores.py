"""What models say about examples: the seam between the half that makes models and the half that
attacks them.

M models, N examples, Q queries per example, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special

from dptrain.core import arrays
from dptrain.core.errors import Refusal

EXTRAS = {
    "jittered_logits": "logits [M, N, T, C] of T copies of each example with a little noise",
    "noisy_logits": "logits [M, N, T, C] of T copies of each example with noise that moves labels",
    "augmented_logits": "logits [M, N, T, C] of T augmented copies of each example",
    "gradient_norm": "norm [M, N] of the gradient of each example's loss",
    "gradient_canary": "cosine [M, N] of a model's way from its start and the example's own "
    "descent direction",
    "trajectory_loss": "loss [M, N, E] at E checkpoints of the training",
}
"""What only some attacks read, with its shape."""

_SATURATED = 2.0**-53
"""A probability of exactly 1 is taken as 1 - 2^-53, so that its scaled logit is finite."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What M models of one setting say about N examples.

    logits: float [M, N, Q, C], or None where only given_loss, the cross-entropy [M, N, Q], is
    known; labels: int [N], each in 0..C-1; membership: bool [M, N], True where the model trained on
    the example. targets: the models to attack, all by default. inputs [N, ...]: the examples
    themselves. population: the same models on examples that none trained on. separate: shadow
    models with examples of their own, for a target whose shadows never saw its examples. extras:
    arrays of EXTRAS. saturated: share of the true class's probabilities that were rounded to 0 or 1
    before they came here. Raises ValueError when shapes, labels or values do not fit.
    """

    logits: np.ndarray | None
    labels: np.ndarray
    membership: np.ndarray
    given_loss: np.ndarray | None = None
    targets: tuple[int, ...] = ()
    inputs: np.ndarray | None = None
    population: Scores | None = None
    separate: Scores | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    saturated: float = 0.0

    def __post_init__(self) -> None:
        self._check_values()
        self._check_membership()
        for name, extra in self.extras.items():
            self._check_extra(name, extra)
        self._check_companions()

    def _check_values(self) -> None:
        if (self.logits is None) == (self.given_loss is None):
            raise ValueError("give either logits or losses")
        shape = self._given.shape
        if self.logits is not None and self.logits.ndim != 4:
            raise ValueError(
                f"logits must be [models, examples, queries, classes], got shape {shape}"
            )
        if self.logits is not None and shape[3] < 2:
            raise ValueError("logits must have two classes or more; give the losses instead")
        if self.given_loss is not None and self.given_loss.ndim != 3:
            raise ValueError(f"losses must be [models, examples, queries], got shape {shape}")
        if not np.isfinite(self._given).all():
            raise ValueError("logits must be finite: a model diverged; lower its learning rate")
        if self.given_loss is not None and self.given_loss.min(initial=0) < 0:
            raise ValueError("losses must be 0 or more")

    def _check_membership(self) -> None:
        models, examples = self._given.shape[:2]
        if self.labels.shape != (examples,):
            raise ValueError(f"labels must be [{examples}], got shape {self.labels.shape}")
        if self.membership.shape != (models, examples) or self.membership.dtype != bool:
            there = f"{self.membership.dtype} {self.membership.shape}"
            raise ValueError(f"membership must be bool [{models}, {examples}], got {there}")
        most = self.labels.max(initial=0) + 1 if self.logits is None else self.logits.shape[3]
        if self.labels.min(initial=0) < 0 or self.labels.max(initial=0) >= most:
            raise ValueError("labels must lie in 0..classes-1")

    def _check_extra(self, name: str, extra: Shaped[np.ndarray, " ..."]) -> None:
        models, examples = self._given.shape[:2]
        if name not in EXTRAS:
            raise ValueError(f"unknown array {name!r}; choose from {', '.join(EXTRAS)}")
        axes = {"gradient_norm": 2, "gradient_canary": 2, "trajectory_loss": 3}.get(name, 4)
        if extra.shape[:2] != (models, examples) or extra.ndim != axes or 0 in extra.shape:
            shape = f"[{models}, {examples}{', ...' if axes > 2 else ''}]"
            raise ValueError(f"{name} must be {shape}, {EXTRAS[name]}; got shape {extra.shape}")
        if axes == 4 and self.logits is not None and extra.shape[3] != self.logits.shape[3]:
            classes = f"the {self.logits.shape[3]} classes of the logits"
            raise ValueError(f"{name} must have {classes}, got {extra.shape[3]}")

    def _check_companions(self) -> None:
        models, examples = self._given.shape[:2]
        if self.inputs is not None and len(self.inputs) != examples:
            raise ValueError(f"inputs must be [{examples}, ...], got shape {self.inputs.shape}")
        if self.population is not None and self.population.models != models:
            count = self.population.models
            raise ValueError(
                f"the population must be scored by the same {models} models, got {count}"
            )
        shadows = None if self.separate is None else self.separate.logits
        if self.logits is not None and shadows is not None:
            wanted, there = self.logits.shape[3], shadows.shape[3]
            if wanted != there:
                message = f"the shadows must have the target's {wanted} classes, got {there}"
                raise ValueError(message)
        inside = all(0 <= target < models for target in self.targets)
        if not inside or len(set(self.targets)) < len(self.targets):
            numbers = f"different numbers in 0..{models - 1}"
            raise ValueError(f"targets must be {numbers}, got {list(self.targets)}")

    @property
    def _given(self) -> np.ndarray:
        given = self.given_loss if self.logits is None else self.logits
        assert given is not None
        return given

    @property
    def models(self) -> int:
        result: int = self.membership.shape[0]
        return result

    @property
    def attacked(self) -> np.ndarray:
        """The targets' indices, int [T]."""
        return np.array(self.targets or range(self.models))

    def shadows(self, target: int) -> np.ndarray:
        """Models an attacker on `target` may use, bool [M]: all but the target and those with its
        own or the opposite split.

        Fleets are built from complementary pairs, so that every example is a member of exactly M/2
        models. The complement must not serve as a shadow: with it, the number of shadows that hold
        an example tells whether the target does.
        """
        same = self.membership == self.membership[target]
        result: np.ndarray = ~(same.all(axis=1) | ~same.any(axis=1))
        return result

    def references(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a shadow of `target` trained on an example, and where it did not, bool [M, N] each.

        In a layout that puts every example into the same number of models, but not by complementary
        pairs, one shadow an example, drawn at random from the side that has one too many, is left
        out, so that the counts say nothing about the target.
        """
        chosen = self.shadows(target)
        inside, outside = self.membership & chosen[:, None], ~self.membership & chosen[:, None]
        count = self.membership.sum(axis=0)
        if chosen.sum() == self.models - 1 > 1 and (count == count[0]).all():
            rng = np.random.default_rng(target)
            for side, extra in (
                (outside, self.membership[target]),
                (inside, ~self.membership[target]),
            ):
                order = np.where(side, rng.random(side.shape), -1.0)
                rows = np.flatnonzero(extra & side.any(axis=0))
                side[order[:, rows].argmax(axis=0), rows] = False
        return inside, outside

    def records(self, target: int) -> tuple[Scores, np.ndarray]:
        """Examples whose membership an attacker on `target` knows: a table, and its models that he
        may use, int [K].
        """
        if self.separate is not None:
            return self.separate, np.arange(self.separate.models)
        return self, np.flatnonzero(self.shadows(target))

    def only(self, models: Int[np.ndarray, " K"]) -> Scores:
        """Those of some models, int [K], which then are all that there are."""
        return replace(
            self,
            logits=None if self.logits is None else self.logits[models],
            membership=self.membership[models],
            given_loss=None if self.given_loss is None else self.given_loss[models],
            targets=(),
            population=None if self.population is None else self.population.only(models),
            extras={name: array[models] for name, array in self.extras.items()},
        )

    def extra(self, name: str) -> np.ndarray:
        """An array of EXTRAS. Raises Refusal where these scores do not have it."""
        if name not in self.extras:
            raise Refusal(f"needs {name}, {EXTRAS[name]}")
        return self.extras[name]

    @cached_property
    def digest(self) -> str:
        """Of all that an attack can read."""
        hashed = hashlib.sha256()
        for name, array in self._arrays():
            hashed.update(repr((name, array.shape, array.dtype)).encode())
            hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return hashed.hexdigest()

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        yield "given", self._given
        yield "labels", self.labels
        yield "membership", self.membership
        yield "targets", self.attacked
        if self.inputs is not None:
            yield "inputs", self.inputs
        yield from sorted(self.extras.items())
        for table in ("population", "separate"):
            if (other := getattr(self, table)) is not None:
                yield from ((f"{table}.{name}", array) for name, array in other._arrays())

    def log_posteriors(self, models: Int[np.ndarray, " K"]) -> np.ndarray:
        """log of the softmax, its mean over queries, float64 [len(models), N, C]. Raises Refusal
        without logits.
        """
        if self.logits is None:
            raise Refusal("needs logits or the probabilities of all classes")
        return np.stack([log_mean(log_softmax(self.logits[model])) for model in models])

    def predicted(self, model: int) -> np.ndarray:
        """The most likely class, int [N]. Raises Refusal without logits."""
        result: np.ndarray = self.log_posteriors(np.array([model]))[0].argmax(axis=-1)
        return result

    @cached_property
    def losses(self) -> np.ndarray:
        """Cross-entropy logsumexp(z) - z_y of each query, float64 [M, N, Q]."""
        if self.logits is None:
            return self._given.astype(np.float64)
        return of_each(self.logits, lambda logits: cross_entropy(logits, self.labels))

    @cached_property
    def loss(self) -> np.ndarray:
        """Cross-entropy, mean over queries, float64 [M, N]."""
        return _mean_of_queries(self.losses)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the true class, mean over queries, float64 [M, N]."""
        return of_each(self.losses, lambda losses: _mean_of_queries(np.exp(-losses)))

    @cached_property
    def phi(self) -> np.ndarray:
        """Scaled logit z_y - logsumexp over j != y of z_j = log(p / (1 - p)), float64 [M, N, Q]
        (Carlini et al. 2022, section IV-C).

        Taken from logits because log(p / (1 - p)) from a rounded p saturates; from losses where
        there is nothing else.
        """
        if self.logits is None:
            loss = np.maximum(self.losses, _SATURATED)
            result: np.ndarray = -loss - np.log(-np.expm1(-loss))
            return result
        return of_each(self.logits, lambda logits: scaled_logit(logits, self.labels))


def of_each(
    tables: Shaped[np.ndarray, "M ..."], function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """A function of each model's table, float64 [M, ...]."""
    first = function(tables[0])
    result = arrays.empty((len(tables), *first.shape))
    result[0] = first
    for model in range(1, len(tables)):
        result[model] = function(tables[model])
    return result


def _mean_of_queries(values: Float[np.ndarray, "... Q"]) -> np.ndarray:
    """Over the last axis; of a single query the very same memory."""
    result: np.ndarray = values[..., 0] if values.shape[-1] == 1 else values.mean(axis=-1)
    return result


def log_softmax(logits: Float[np.ndarray, "*shape C"]) -> np.ndarray:
    """Over the last axis, float64."""
    return np.asarray(special.log_softmax(logits.astype(np.float64), axis=-1))


def split_true(
    values: Float[np.ndarray, "N ... C"], labels: Int[np.ndarray, " N"], fill: float = -np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The values [N, ..., C] of the true classes [N, ...], and a copy of all with `fill` there."""
    index = labels.reshape(-1, *[1] * (values.ndim - 1))
    index = np.broadcast_to(index, (*values.shape[:-1], 1))
    others = values.copy()
    np.put_along_axis(others, index, fill, axis=-1)
    return np.take_along_axis(values, index, axis=-1)[..., 0], others


def log_mean(log_posterior: Float[np.ndarray, "N Q C"]) -> np.ndarray:
    """log of the mean probability over queries: [N, Q, C] to [N, C]."""
    if log_posterior.shape[1] == 1:
        return log_posterior[:, 0]
    result: np.ndarray = np.logaddexp.reduce(log_posterior, axis=1) - np.log(log_posterior.shape[1])
    return result


def cross_entropy(logits: Float[np.ndarray, "N Q C"], labels: Int[np.ndarray, " N"]) -> np.ndarray:
    """logits [N, Q, C], labels int [N] to float64 [N, Q]."""
    return -split_true(log_softmax(logits), labels)[0]


def scaled_logit(logits: Float[np.ndarray, "N Q C"], labels: Int[np.ndarray, " N"]) -> np.ndarray:
    """logits [N, Q, C], labels int [N] to float64 [N, Q]."""
    true_logit, others = split_true(logits.astype(np.float64), labels)
    top = others.max(axis=-1)
    rest = top + np.log(np.exp(others - top[..., None]).sum(axis=-1))
    return np.asarray(true_logit - rest)
