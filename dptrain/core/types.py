"""Frozen values that the two halves of dptrain exchange."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any

GRID = -4
"""Power of two, in standard deviations of the noise, of the multiples that noisy sums are rounded
to (docs/noise.md says why this one).
"""


class Sampling(StrEnum):
    """How the examples of a step are drawn."""

    POISSON = "poisson"
    SHUFFLED = "shuffled"
    """Every example once a pass, in batches of a fixed size. Its order hides nothing that is
    proved: no amplification.
    """


class Neighbouring(StrEnum):
    """What may differ between two neighbouring data sets."""

    ADD_REMOVE = "add-or-remove-one"
    ZERO_OUT = "zero-out-one"
    """One example's gradients are replaced by zero, and the number of examples stays (Kairouz et
    al. 2021, section 3).
    """


class Unit(StrEnum):
    """What is drawn into a batch, and whose gradient is clipped as one."""

    EXAMPLE = "example"
    USER = "user"
    """All examples of one user: of a person, or of whatever a column of the table names."""


@dataclass(frozen=True)
class Mechanism:
    """What a trainer ran, exactly; the accountant bounds it or refuses it.

    Every field is a public constant, fixed before the data are read. Each of `steps` steps includes
    each unit independently with probability `batch_size / public_n`, clips its gradient to L2 norm
    `clip`, sums, adds N(0, (noise_multiplier * clip)^2) to every coordinate and divides by
    `divisor` (Abadi et al. 2016, algorithm 1). `clip = inf` with `noise_multiplier = 0` is plain
    SGD. A user's gradient is the mean over some of their examples (McMahan et al. 2018).
    """

    sampling: Sampling
    batch_size: int
    public_n: int
    steps: int
    noise_multiplier: float
    clip: float
    divisor: int
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE
    unit: Unit = Unit.EXAMPLE

    @property
    def sample_rate(self) -> Fraction:
        return Fraction(self.batch_size, self.public_n)

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on a clipped sum; 0 without privacy."""
        return self.noise_multiplier * self.clip if self.private else 0.0

    @property
    def spacing(self) -> float:
        """Noisy sums are rounded to multiples of it before anything reads them: a power of two,
        which float32 holds exactly, and 2^GRID of the noise's standard deviation or less. 1 without
        noise.
        """
        return 2.0 ** (math.floor(math.log2(self.noise_std)) + GRID) if self.private else 1.0

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: an infinite clip is null."""
        return {name: None if value == math.inf else value for name, value in asdict(self).items()}


class EngineKind(StrEnum):
    """How per-example gradients are computed."""

    STACKED = "stacked"
    """Closed forms for a stack of models side by side."""
    OPACUS = "opacus"
    """Opacus's GradSampleModule, one model at a time."""
    VMAP = "vmap"
    """torch.func.vmap over single examples, one model at a time."""


class OptimiserKind(StrEnum):
    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(StrEnum):
    """How the learning rate falls over a run."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Clipping(StrEnum):
    """What a per-example gradient is multiplied by; each keeps its norm at the clip or below."""

    FLAT = "flat"
    """min(1, C / norm) (Abadi et al. 2016, algorithm 1)."""
    AUTOMATIC = "automatic"
    """C / (norm + .01): AUTO-S (Bu et al. 2023, equation 4)."""
    NORMALISE = "normalise"
    """C / norm."""


class Precision(StrEnum):
    """Of the forward and backward pass; norms and sums are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Task(StrEnum):
    """What is predicted."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    """A number between public bounds, which are -1 and 1 to the model."""


class Loss(StrEnum):
    """What is minimised of an example."""

    CROSS_ENTROPY = "cross_entropy"
    SQUARED = "squared"
    """Half the square of the error."""
    ABSOLUTE = "absolute"


class ClassWeights(StrEnum):
    """What an example's loss is multiplied by."""

    NONE = "none"
    BALANCED = "balanced"
    """So that every class weighs as much, by its frequency in the population."""


class Decision(StrEnum):
    """How a model of two classes decides; one of more always decides for its highest posterior."""

    HIGHEST = "highest"
    """For the class of the highest posterior."""
    FITTED = "fitted"
    """At the threshold that serves the chosen utility best on the population."""


class Rows(StrEnum):
    """What a model that is trained to be given away learns from."""

    POOL = "pool"
    POOL_AND_TEST = "pool_and_test"
    ALL = "all"
    """The population too."""


class NoiseSource(StrEnum):
    """Where the keys of batches and noise come from."""

    OS = "os"
    SEEDED = "seeded"
    """From a public seed, so that a run can be repeated: whoever knows it can subtract the
    noise.
    """


@dataclass(frozen=True)
class Optimiser:
    """warmup: share of the steps in which the rate rises linearly."""

    learning_rate: float
    momentum: float = 0.0
    kind: OptimiserKind = OptimiserKind.SGD
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.CONSTANT
    warmup: float = 0.0


@dataclass(frozen=True)
class Views:
    """Random views of each example, drawn by `augmentations` in order. The gradients of
    `multiplicity` views are averaged before clipping (De et al. 2022).
    """

    augmentations: tuple[str, ...] = ()
    multiplicity: int = 1


@dataclass(frozen=True)
class Regularisation:
    """For plain training only, and nothing is proved of it. dropout: share of a layer's inputs;
    mixup: alpha of its Beta; relax: target of RelaxLoss; adversary: weight of an attacker's gain.
    0 stands for none.
    """

    dropout: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    relax: float = 0.0
    adversary: float = 0.0

    @property
    def active(self) -> bool:
        """Whether a plain step differs from that of SGD on the cross-entropy."""
        return any(asdict(self).values())


@dataclass(frozen=True)
class Release:
    """What is given away of a trained model.

    average: decay of the exponential moving average that is released instead of the last iterate,
    0 for none; of private iterates it is post-processing. early_stopping: the parameters with the
    least population loss are released. top, digits: how many confidences a service gives, with how
    many decimals; 0 for all as they are. The last three are for plain training only.
    """

    average: float = 0.0
    early_stopping: bool = False
    top: int = 0
    digits: int = 0


@dataclass(frozen=True)
class Recipe:
    """How parameters move, given the mechanism's noisy sums. The accountant need not see it: what
    precedes the clip changes one unit's gradient only, and what follows the noise is
    post-processing. examples_per_user: how many of a user's examples their gradient is the mean
    of, at most. class_weights: what a loss is multiplied by, before the gradient is clipped.
    """

    optimiser: Optimiser
    clipping: Clipping = Clipping.FLAT
    precision: Precision = Precision.FLOAT32
    views: Views = field(default_factory=Views)
    regularisation: Regularisation = field(default_factory=Regularisation)
    release: Release = field(default_factory=Release)
    examples_per_user: int = 1
    class_weights: ClassWeights = ClassWeights.NONE
    loss: Loss = Loss.CROSS_ENTROPY


@dataclass(frozen=True)
class Setting:
    """One way to train. `epsilon` is the target at `delta`, None without privacy, of `group`
    examples that come and go together. model: options of the model that differ from the sweep's.
    """

    name: str
    defence: str
    epsilon: float | None
    delta: float
    mechanism: Mechanism
    recipe: Recipe
    model: tuple[tuple[str, Any], ...] = ()
    group: int = 1

    def shaping(self) -> list[object]:
        """What of a setting shapes its models, as JSON."""
        options = [list(map(list, self.model))] if self.model else []
        return [self.mechanism.to_json(), asdict(self.recipe), *options]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval and the counts it stands on.

    `targets` is the number of attacked models; `n_in` and `n_out` are the members and non-members
    summed over them.
    """

    estimate: float
    low: float
    high: float
    targets: int
    n_in: int
    n_out: int
