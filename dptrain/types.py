"""Frozen values that the two halves of dptrain exchange, shapes first.

M models, N examples, Q queries per example, C classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property

import numpy as np


class ConfigError(ValueError):
    """A configuration that cannot be run; `key` names the entry, the message says the fix."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}" if key else message)
        self.key, self.message = key, message


class Refusal(Exception):
    """A number that these data cannot support; the message is the reason, for the reader of the report."""


class Sampling(StrEnum):
    """How the examples of a step are drawn."""

    POISSON = "poisson"


class Neighbouring(StrEnum):
    """What may differ between two neighbouring data sets."""

    ADD_REMOVE = "add-or-remove-one"


@dataclass(frozen=True)
class Mechanism:
    """What a trainer ran, exactly; the accountant bounds it or refuses it.

    Every field is a public constant, fixed before the data are read. Each of `steps` steps includes each example
    independently with probability `batch_size / public_n`, clips its gradient to L2 norm `clip`, sums, adds
    N(0, (noise_multiplier * clip)^2) to every coordinate and divides by `divisor` (Abadi et al. 2016, algorithm 1).
    `clip = inf` with `noise_multiplier = 0` is plain SGD.
    """

    sampling: Sampling
    batch_size: int
    public_n: int
    steps: int
    noise_multiplier: float
    clip: float
    divisor: int
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE

    @property
    def sample_rate(self) -> Fraction:
        return Fraction(self.batch_size, self.public_n)

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0


@dataclass(frozen=True)
class Recipe:
    """How parameters move, given the mechanism's noisy sums. The accountant need not see it: what precedes the clip changes one
    example's gradient only, and what follows the noise is post-processing.

    clipping: flat, automatic or normalise, each to norm at most the mechanism's clip. multiplicity: views of an example whose gradients
    are averaged before clipping (De et al. 2022), drawn by `augmentations` in order. warmup: share of the steps in which the rate rises
    linearly. average: decay of the exponential moving average that is released instead of the last iterate, 0 for none. precision:
    of the forward and backward pass; norms and sums are float32.
    """

    learning_rate: float
    momentum: float = 0.0
    optimiser: str = "sgd"
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    clipping: str = "flat"
    augmentations: tuple[str, ...] = ()
    multiplicity: int = 1
    average: float = 0.0
    precision: str = "float32"


@dataclass(frozen=True)
class Setting:
    """One way to train. `epsilon` is the target at `delta`, None without privacy."""

    name: str
    defence: str
    epsilon: float | None
    delta: float
    mechanism: Mechanism
    recipe: Recipe


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval and the counts it stands on.

    `targets` is the number of attacked models; `n_in` and `n_out` are the members and non-members summed over them.
    """

    estimate: float
    low: float
    high: float
    targets: int
    n_in: int
    n_out: int


@dataclass(frozen=True)
class Scores:
    """What M models of one setting say about N examples.

    logits: float [M, N, Q, C]; labels: int [N], each in 0..C-1; membership: bool [M, N], True where the model trained on
    the example. Raises ValueError when shapes, labels or values do not fit.
    """

    logits: np.ndarray
    labels: np.ndarray
    membership: np.ndarray

    def __post_init__(self) -> None:
        if self.logits.ndim != 4:
            raise ValueError(f"logits must be [models, examples, queries, classes], got shape {self.logits.shape}")
        models, examples, _, classes = self.logits.shape
        if self.labels.shape != (examples,):
            raise ValueError(f"labels must be [{examples}], got shape {self.labels.shape}")
        if self.membership.shape != (models, examples) or self.membership.dtype != bool:
            raise ValueError(f"membership must be bool [{models}, {examples}], got {self.membership.dtype} {self.membership.shape}")
        if not np.isfinite(self.logits).all():
            raise ValueError("logits must be finite: a model diverged; lower its learning rate")
        if examples and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(f"labels must lie in 0..{classes - 1}")

    @property
    def models(self) -> int:
        return self.logits.shape[0]

    def shadows(self, target: int) -> np.ndarray:
        """Models an attacker on `target` may use, bool [M]: all but the target and its exact complement.

        Fleets are built from complementary pairs, so that every example is a member of exactly M/2 models. The complement
        must not serve as a shadow: with it, the number of shadows that hold an example tells whether the target does.
        """
        others = np.ones(self.models, dtype=bool)
        others[target] = False
        complement = (self.membership != self.membership[target]).all(axis=1)
        return others & ~complement

    @cached_property
    def digest(self) -> str:
        """Of all that an attack can read."""
        hashed = hashlib.sha256(repr((self.logits.shape, self.logits.dtype)).encode())
        for array in (self.logits, self.labels, self.membership):
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    @cached_property
    def _log_softmax(self) -> np.ndarray:
        logits = self.logits.astype(np.float64)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    @cached_property
    def log_posterior(self) -> np.ndarray:
        """log of the softmax, mean over queries, float64 [M, N, C]."""
        return self._log_softmax.mean(axis=2)

    @cached_property
    def loss(self) -> np.ndarray:
        """Cross-entropy logsumexp(z) - z_y, mean over queries, float64 [M, N]."""
        return -np.take_along_axis(self.log_posterior, self.labels[None, :, None], axis=-1)[..., 0]

    @cached_property
    def phi(self) -> np.ndarray:
        """Scaled logit z_y - logsumexp over j != y of z_j, float64 [M, N, Q] (Carlini et al. 2022, section IV-C).

        Taken from logits because log(p / (1 - p)) from a rounded p saturates.
        """
        logits = self.logits.astype(np.float64)
        index = self.labels[None, :, None, None]
        own = np.take_along_axis(logits, index, axis=-1)[..., 0]
        others = logits.copy()
        np.put_along_axis(others, np.broadcast_to(index, (*logits.shape[:3], 1)), -np.inf, axis=-1)
        top = others.max(axis=-1)
        return own - (top + np.log(np.exp(others - top[..., None]).sum(axis=-1)))
