"""Frozen values that the two halves of dptrain exchange."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be run; `key` names the entry, the message says the fix."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}" if key else message)
        self.key, self.message = key, message


def first_line(error: Exception) -> str:
    """What an error says, in at most 200 letters of one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def printable(text: str) -> str:
    """A text of unknown origin for a terminal: what would not be printed, such as an escape, is spelled out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class Refusal(Exception):
    """A number that these data cannot support; the message is the reason, for the reader of the report."""


GRID = -4
"""Power of two, in standard deviations of the noise, of the multiples that noisy sums are rounded to (docs/noise.md says why this one)."""


class Sampling(StrEnum):
    """How the examples of a step are drawn."""

    POISSON = "poisson"
    SHUFFLED = "shuffled"
    """Every example once a pass, in batches of a fixed size. Its order hides nothing that is proved: no amplification."""


class Neighbouring(StrEnum):
    """What may differ between two neighbouring data sets."""

    ADD_REMOVE = "add-or-remove-one"
    ZERO_OUT = "zero-out-one"
    """One example's gradients are replaced by zero, and the number of examples stays (Kairouz et al. 2021, section 3)."""


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

    @property
    def spacing(self) -> float:
        """Noisy sums are rounded to multiples of it before anything reads them: a power of two, which float32 holds exactly, and 2^GRID of
        the noise's standard deviation or less. 1 without noise."""
        return 2.0 ** (math.floor(math.log2(self.noise_multiplier * self.clip)) + GRID) if self.private else 1.0

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: an infinite clip is null."""
        return {name: None if value == math.inf else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Recipe:
    """How parameters move, given the mechanism's noisy sums. The accountant need not see it: what precedes the clip changes one
    example's gradient only, and what follows the noise is post-processing.

    clipping: flat, automatic or normalise, each to norm at most the mechanism's clip. multiplicity: views of an example whose gradients
    are averaged before clipping (De et al. 2022), drawn by `augmentations` in order. warmup: share of the steps in which the rate rises
    linearly. average: decay of the exponential moving average that is released instead of the last iterate, 0 for none. precision:
    of the forward and backward pass; norms and sums are float32.

    The rest is for plain training only, and nothing is proved of it. dropout: share of a layer's inputs; mixup: alpha of its Beta; relax: target
    of RelaxLoss; adversary: weight of an attacker's gain; early_stopping: the parameters with the least population loss are released. top, digits: how many confidences are told,
    with how many decimals; 0 for all as they are.
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
    dropout: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    relax: float = 0.0
    adversary: float = 0.0
    early_stopping: bool = False
    top: int = 0
    digits: int = 0

    @property
    def regularised(self) -> bool:
        """Whether a plain step differs from that of SGD on the cross-entropy."""
        return bool(self.dropout or self.label_smoothing or self.mixup or self.relax or self.adversary)


@dataclass(frozen=True)
class Setting:
    """One way to train. `epsilon` is the target at `delta`, None without privacy. model: options of the model that differ from the sweep's."""

    name: str
    defence: str
    epsilon: float | None
    delta: float
    mechanism: Mechanism
    recipe: Recipe
    model: tuple[tuple[str, Any], ...] = ()

    def shaping(self) -> list[object]:
        """What of a setting shapes its models, as JSON."""
        return [self.mechanism.to_json(), asdict(self.recipe), *([list(map(list, self.model))] if self.model else [])]


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
