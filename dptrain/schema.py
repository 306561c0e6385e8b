"""The frozen schema of a sweep, with every check that needs no data."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from dptrain.types import ConfigError

ENGINES = ("stacked", "opacus", "vmap")
OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
AUGMENTATIONS = ("flip", "crop", "shift")
CLIPPINGS = ("flat", "automatic", "normalise")
CANARIES = ("mislabelled", "blank", "noise", "gradient")
AUDITS = ("one_run", "one_run_fdp", "clopper_pearson", "gdp", "joint_beta")
"""The keys of the registries of those names; here because a configuration is checked before torch is loaded."""
MAX_EPSILON = 100
MIN_POOL = 40
"""Below it a training set can lack members, and every metric is noise."""


LEAST_CLIP, MOST_CLIP = 1e-6, 1e6
"""Beyond them float32 loses gradients, sums or noise."""
MOST_EXAMPLES = 10**9
MOST_MODELS = 10_000
MIN_CANARIES = 20
"""Below it some model can hold all of them, or none."""


def option(text: str) -> Any:
    """A field without a default (the YAML files hold those) and its line of help."""
    return field(metadata={"help": text})


@dataclass(frozen=True)
class DatasetConfig:
    name: str = option("data set")
    path: str | None = option("file or folder of a data set; null: where it is published")
    target: str | None = option("of a table: the column to predict")
    group: str | None = option("of a table: the column that names the unit of privacy; one row of each is used")
    header: bool = option("of a CSV: whether its first line names the columns; else they are c0, c1, ...")
    schema: str | None = option("of a table: YAML file of its columns and classes; null: as the population split has them")
    id: int | None = option("of openml: the number of the data set")
    pool: int = option("candidates; each model trains on its own random half")
    population: int = option("examples no model trains on, set aside for an attacker")
    test: int = option("examples for accuracy only")
    canaries: int = option("pool examples that are replaced by canaries, the worst case; 0 for none")
    canary: str = option("kind of canary: mislabelled, blank, noise or gradient")


@dataclass(frozen=True)
class TrainingConfig:
    batch_size: int = option("expected batch size of Poisson sampling")
    epochs: float = option("passes over pool/2 examples, in expectation")
    optimiser: str = option("sgd or adamw")
    weight_decay: float = option("of the optimiser; decoupled for adamw")
    schedule: str = option("of the learning rate: constant, linear or cosine, both to zero")
    warmup: float = option("share of the steps in which the learning rate rises")
    average: float = option("decay of a moving average of the parameters, which is then what is released; 0 for none")
    augmentations: tuple[str, ...] = option("random views of images, in order: flip, crop, shift")
    multiplicity: int = option("views of each example in a step, averaged before clipping")
    precision: str = option("of forward and backward pass: float32 or bfloat16; norms and sums are float32")
    engine: str = option("auto, stacked (fast), opacus or vmap (other modules)")
    device: str = option("auto, cpu, cuda or mps")
    width: int | None = option("models trained side by side; null: measured")
    workers: int | None = option("processes, which share the threads or have a GPU each; null: measured")
    physical_batch: int | None = option("examples of a model in memory at once; a batch is summed in parts; null: by memory")
    trajectory: int = option("checkpoints at which the loss of every pool example is kept, for the attack trajectory")
    checkpoint_seconds: float = option("seconds between checkpoints of an unfinished stack")


@dataclass(frozen=True)
class PrivacyConfig:
    delta: float = option("delta of (epsilon, delta); below 1/n")
    noise: str = option("os: key from the operating system; seeded: from `seed`, to reproduce a run")


@dataclass(frozen=True)
class QueriesConfig:
    copies: int = option("copies of each example that merlin, morgan and label_only ask the models about")
    jitter: float = option("standard deviation of the noise on copies for merlin and morgan")
    noise: float = option("standard deviation of the noise on copies for label_only")


@dataclass(frozen=True)
class Config:
    name: str = option("name of the run; output goes to results/<name>")
    epsilons: tuple[float, ...] = option("targets; inf trains without privacy")
    models_per_setting: int = option("models of each setting, even; each is attacked with the others as shadows")
    seed: int = option("seed of splits, memberships and initial weights")
    output: str | None = option("folder for results; default results/<name> under the current folder")
    dataset: DatasetConfig = option("data set and its split")
    model: Mapping[str, Any] = option("name of the model, and its options")
    training: TrainingConfig = option("how to train")
    privacy: PrivacyConfig = option("what is promised")
    defence: Mapping[str, Mapping[str, Any]] = option("parameters of each way to train")
    attacks: Mapping[str, Mapping[str, Any]] = option("attacks to run, and their options")
    audits: tuple[str, ...] = option("lower bounds of epsilon: one_run, one_run_fdp, clopper_pearson, gdp, joint_beta")
    queries: QueriesConfig = option("what some attacks ask the models")

    def __post_init__(self) -> None:
        _check(self)

    @property
    def public_n(self) -> int:
        """The declared size of a training set: half the pool. Public, and the same whatever the memberships are."""
        return self.dataset.pool // 2

    @property
    def steps(self) -> int:
        return math.ceil(Fraction(str(self.training.epochs)) * self.public_n / self.training.batch_size)

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else Path("results") / self.name

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; no DP is null."""
        plain = dataclasses.asdict(self)
        plain["epsilons"] = [None if math.isinf(epsilon) else epsilon for epsilon in self.epsilons]
        return plain


def require(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise ConfigError(key, message)


def positive(value: Any, key: str) -> float:
    """A number above zero that float32 can hold, or ConfigError."""
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise ConfigError(key, f"must be a finite number above 0 and below 1e30, got {value!r}")
    return float(value)


def choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, key, f"unknown value {value!r}; choose from {', '.join(choices)}")


def check_audits(audits: tuple[str, ...]) -> None:
    for name in audits:
        choose("audits", name, AUDITS)
    require(len(set(audits)) == len(audits), "audits", "each may stand there once; remove the repeats")


def check_name(name: str) -> None:
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
    require(fits, "name", f"use letters, digits, '.', '_' and '-', got {name!r}")


def _check(config: Config) -> None:
    check_name(config.name)
    for part in ("pool", "population", "test"):
        value = getattr(config.dataset, part)
        require(1 <= value <= MOST_EXAMPLES, f"dataset.{part}", f"must lie in 1..{MOST_EXAMPLES:,}, got {value:,}")
    pool = config.dataset.pool
    require(pool >= MIN_POOL, "dataset.pool", f"must be at least {MIN_POOL}, got {pool}")
    require(pool % 2 == 0, "dataset.pool", f"must be even, since each model trains on half of it; use {pool - 1}")
    require(len(config.attacks) > 0, "attacks", "give at least one, such as [loss,lira]")
    half = pool // 2
    enough = config.dataset.canaries == 0 or MIN_CANARIES <= config.dataset.canaries <= half
    require(enough, "dataset.canaries", f"must be 0, or lie in {MIN_CANARIES}..{half} (half the pool), got {config.dataset.canaries}")
    choose("dataset.canary", config.dataset.canary, CANARIES)
    check_audits(config.audits)
    require(1 <= config.queries.copies <= 10_000, "queries.copies", f"must lie in 1..10000, got {config.queries.copies}")
    positive(config.queries.jitter, "queries.jitter")
    positive(config.queries.noise, "queries.noise")
    require(len(config.epsilons) > 0, "epsilons", "give at least one, such as [inf,8,2]")
    for epsilon in config.epsilons:
        require(epsilon > 0, "epsilons", f"must be above 0, got {epsilon:g}; use inf for no privacy")
        vain = f"{epsilon:g} promises next to nothing; use at most {MAX_EPSILON}, or inf for no privacy"
        require(epsilon <= MAX_EPSILON or math.isinf(epsilon), "epsilons", vain)
    require(len(set(config.epsilons)) == len(config.epsilons), "epsilons", "each may stand there once; remove the repeats")
    models = config.models_per_setting
    require(
        models >= 2 and models % 2 == 0,
        "models_per_setting",
        f"must be even and at least 2, got {models}; use {max(2, models + models % 2)}",
    )
    require(models <= MOST_MODELS, "models_per_setting", f"must be at most {MOST_MODELS:,}, got {models:,}")
    require(config.seed >= 0, "seed", "must be 0 or more")
    n, training = config.public_n, config.training
    require(1 <= training.batch_size <= n, "training.batch_size", f"must lie in 1..{n} (half the pool), got {training.batch_size}")
    positive(training.epochs, "training.epochs")
    require(config.steps < 2**31, "training.epochs", "gives more than 2^31 steps; lower it")
    positive(training.checkpoint_seconds, "training.checkpoint_seconds")
    for key in ("width", "workers", "physical_batch"):
        value = getattr(training, key)
        require(value is None or value >= 1, f"training.{key}", "must be at least 1, or null to let it be chosen")
    require(0 <= training.weight_decay < 1e30, "training.weight_decay", f"must be 0 or more, got {training.weight_decay:g}")
    require(0 <= training.warmup <= 1, "training.warmup", f"is a share of the steps in [0, 1], got {training.warmup:g}")
    require(0 <= training.trajectory <= 100, "training.trajectory", f"must lie in 0..100, got {training.trajectory}")
    require(0 <= training.average < 1, "training.average", f"must lie in [0, 1), such as 0.999, got {training.average:g}")
    require(1 <= training.multiplicity <= 256, "training.multiplicity", f"must lie in 1..256, got {training.multiplicity}")
    for name in training.augmentations:
        require(name in AUGMENTATIONS, "training.augmentations", f"unknown value {name!r}; choose from {', '.join(AUGMENTATIONS)}")
    alike = "views without augmentations are all the same; use 1, or give training.augmentations=[flip,crop]"
    require(training.multiplicity == 1 or len(training.augmentations) > 0, "training.multiplicity", alike)
    require(len(set(training.augmentations)) == len(training.augmentations), "training.augmentations", "each may stand there once")
    for key, value, choices in (
        ("training.optimiser", training.optimiser, OPTIMISERS),
        ("training.schedule", training.schedule, SCHEDULES),
        ("training.precision", training.precision, ("float32", "bfloat16")),
        ("training.engine", training.engine, ("auto", *ENGINES)),
        ("training.device", training.device, ("auto", "cpu", "cuda", "mps")),
        ("privacy.noise", config.privacy.noise, ("os", "seeded")),
    ):
        choose(key, value, choices)
    delta = config.privacy.delta
    require(
        0 < delta < 1 / n,
        "privacy.delta",
        f"must lie above 0 and below 1/n = {1 / n:.3g}, got {delta:g}; a delta of 1/n allows publishing one record",
    )
