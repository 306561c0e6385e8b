"""The frozen schema of a sweep, with every check that needs no data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dptrain.config.defences import (
    AUGMENTATIONS,
    PRIVATE,
    Augmentation,
    Defence,
    DPSGDUser,
    SmallerModel,
)
from dptrain.config.fields import FINITE, check_fields, check_name, option, require
from dptrain.core.types import (
    ClassWeights,
    Decision,
    EngineKind,
    Loss,
    NoiseSource,
    OptimiserKind,
    Precision,
    Schedule,
    Task,
)

CANARIES = ("mislabelled", "blank", "noise", "gradient")
UTILITIES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "auprc",
    "log_loss",
    "brier",
    "calibration_error",
    "rmse",
    "mae",
    "r2",
)
OF_REGRESSION = ("rmse", "mae", "r2")
AUDITS = ("one_run", "one_run_fdp", "clopper_pearson", "gdp", "joint_beta")
"""The keys of the registries of those names; here because a configuration is checked before torch
is loaded.
"""
MAX_EPSILON = 100
MIN_POOL = 40
"""Below it a training set can lack members, and every metric is noise."""
MOST_EXAMPLES = 10**9
MOST_MODELS = 10_000
MIN_CANARIES = 20
"""Below it some model can hold all of them, or none."""
ADAMW_RATE = 0.1
"""A learning rate above it was meant for SGD, whose steps are as small as the gradients."""
AUTO = "auto"
OPEN = "or null to let it be chosen"


@dataclass(frozen=True)
class DatasetConfig:
    name: str = option("data set")
    path: str | None = option("file or folder of a data set; null: where it is published")
    target: str | None = option("of a table: the column to predict")
    group: str | None = option(
        "of a table: the column that names the unit of privacy; one row of each is used"
    )
    task: Task = option("classification, or regression of a target between public bounds")
    bounds: tuple[float, ...] = option(
        "of a regression: the least and the greatest target, public; what lies beyond is cut"
    )
    unit: str | None = option(
        "of a table: the column that names users; all rows of one are in a training set, or none"
    )
    unit_rows: int | None = option(
        "with unit: rows that are used of each user at most; null: all", least=1
    )
    unit_count: int | None = option(
        "with unit: rows of the pool, for settings that draw rows; null: counted", least=1
    )
    header: bool = option(
        "of a CSV: whether its first line names the columns; else they are c0, c1, ..."
    )
    schema: str | None = option(
        "of a table: YAML file of its columns and classes; null: as the population split has them"
    )
    drop: tuple[str, ...] = option("of a table: columns that are left out", unique=True)
    numeric: tuple[str, ...] = option("of a table: columns of numbers", unique=True)
    categorical: tuple[str, ...] = option("of a table: columns of categories", unique=True)
    ordinal: Mapping[str, tuple[str, ...]] = option(
        "of a table: columns whose values have an order, the least first: {size: [small, large]}"
    )
    time: str | None = option(
        "of a table: column of a date or number; the test set are the latest rows"
    )
    id: str | None = option(
        "of a table: the column that names its rows; no input, and the report names rows by it"
    )
    number: int | None = option("of openml: the number of the data set")
    pool: int | None = option(
        "candidates; each model trains on its own random half; null: all that are left",
        least=MIN_POOL,
        most=MOST_EXAMPLES,
    )
    population: int | None = option(
        "examples no model trains on, set aside for an attacker; null: a tenth",
        least=1,
        most=MOST_EXAMPLES,
    )
    test: int | None = option(
        "examples for utility only; null: a fifth", least=1, most=MOST_EXAMPLES
    )
    canaries: int = option(
        "pool examples that are replaced by canaries, made to be remembered; 0 for none", least=0
    )
    canary: str = option("kind of canary: mislabelled, blank, noise or gradient", choices=CANARIES)

    @property
    def known(self) -> bool:
        """Whether the sizes of the splits are given; else they follow from the data."""
        counted = self.unit is not None and self.unit_count is None
        return None not in (self.pool, self.population, self.test) and not counted


@dataclass(frozen=True)
class TrainingConfig:
    batch_size: int = option("expected batch size of Poisson sampling", least=1)
    epochs: float = option("passes over pool/2 examples, in expectation", above=0, below=FINITE)
    optimiser: OptimiserKind = option("sgd or adamw")
    weight_decay: float = option("of the optimiser; decoupled for adamw", least=0, below=FINITE)
    schedule: Schedule = option("of the learning rate: constant, linear or cosine, both to zero")
    warmup: float = option(
        "share of the steps in which the learning rate rises", least=0.0, most=1.0
    )
    average: float = option(
        "decay of a moving average of the parameters, which is then what is released; 0 for none",
        least=0.0,
        below=1.0,
        hint="such as 0.999",
    )
    augmentations: tuple[str, ...] = option(
        "random views of images, in order: flip, crop, shift", choices=AUGMENTATIONS, unique=True
    )
    multiplicity: int = option(
        "views of each example in a step, averaged before clipping", least=1, most=256
    )
    precision: Precision = option(
        "of forward and backward pass: float32 or bfloat16; norms and sums are float32"
    )
    error: Loss = option(
        "of a regression, minimised: squared or absolute", choices=(Loss.SQUARED, Loss.ABSOLUTE)
    )
    class_weights: ClassWeights = option(
        "of each example's loss: none, or balanced, by the classes of the population"
    )
    engine: str = option(
        "auto, stacked (fast), opacus or vmap (other modules)", choices=(AUTO, *EngineKind)
    )
    device: str = option("auto, cpu, cuda or mps", choices=(AUTO, "cpu", "cuda", "mps"))
    width: int | None = option("models trained side by side; null: measured", least=1, hint=OPEN)
    workers: int | None = option(
        "processes, which share the threads or have a GPU each; null: measured", least=1, hint=OPEN
    )
    physical_batch: int | None = option(
        "examples of a model in memory at once; a batch is summed in parts; null: by memory",
        least=1,
        hint=OPEN,
    )
    trajectory: int = option(
        "checkpoints at which the loss of every pool example is kept, for the attack trajectory",
        least=0,
        most=100,
    )
    checkpoint_seconds: float = option(
        "seconds between checkpoints of an unfinished stack", above=0, below=FINITE
    )


@dataclass(frozen=True)
class PrivacyConfig:
    delta: float = option("delta of (epsilon, delta); below 1/n", above=0)
    noise: NoiseSource = option(
        "os: key from the operating system; seeded: from `seed`, to reproduce a run"
    )


EXECUTORS = ("local", "ray", "slurm")
ONLY_OF = {
    "address": "ray",
    "cluster": "slurm",
    "folder": "slurm",
    "stacks": "slurm",
    "minutes": "slurm",
    "partition": "slurm",
    "account": "slurm",
    "qos": "slurm",
    "constraint": "slurm",
}
"""Keys that no other executor reads."""


@dataclass(frozen=True)
class ExecutorConfig:
    name: str = option("where stacks of models are trained: local, ray or slurm", choices=EXECUTORS)
    cpus: float = option("processors of a task, with as many threads", above=0, most=1024)
    gpus: float = option("GPUs of a task; of Ray's also a share of one", least=0, most=64)
    memory_gib: float | None = option("memory that a task asks for, in GiB", above=0, below=1e6)
    at_once: int | None = option(
        "tasks at a time, or elements of an array; null: as many as the cluster has room for",
        least=1,
        hint=OPEN,
    )
    retries: int = option("times that a task whose node was lost is done again", least=0, most=1000)
    address: str | None = option("of Ray's cluster: auto, local or ray://HOST:PORT")
    cluster: str | None = option(
        "slurm, or local: submitit's jobs on this machine", choices=("slurm", "local")
    )
    folder: str | None = option(
        "folder that Slurm's nodes see too, where one of its own is made; null: beside the results"
    )
    stacks: int | None = option("stacks that an element of a job array trains", least=1)
    minutes: int | None = option("time limit of an element, in minutes", least=1)
    partition: str | None = option("of Slurm")
    account: str | None = option("of Slurm")
    qos: str | None = option("of Slurm")
    constraint: str | None = option("of Slurm: features that a node must have")

    def __post_init__(self) -> None:
        for key, name in ONLY_OF.items():
            given = getattr(self, key) is not None
            fix = f"only the executor {name} reads it; use executor={name}, or leave it out"
            require(not given or self.name == name, f"executor.{key}", fix)
        for needed in {"ray": ("address",), "slurm": ("cluster", "minutes")}.get(self.name, ()):
            given = getattr(self, needed) is not None
            require(
                given,
                f"executor.{needed}",
                f"the executor {self.name} needs it; take the defaults of executor={self.name}",
            )
        for key, value in (("gpus", self.gpus), ("cpus", self.cpus)):
            fits = self.name != "slurm" or float(value).is_integer()
            require(fits, f"executor.{key}", f"must be whole for slurm, got {value:g}")


@dataclass(frozen=True)
class QueriesConfig:
    copies: int = option(
        "copies of each example that merlin, morgan and label_only ask the models about",
        least=1,
        most=10_000,
    )
    jitter: float = option(
        "standard deviation of the noise on copies for merlin and morgan", above=0, below=FINITE
    )
    noise: float = option(
        "standard deviation of the noise on copies for label_only", above=0, below=FINITE
    )


@dataclass(frozen=True)
class Config:
    name: str = option("name of the run; output goes to results/<name>")
    epsilons: tuple[float, ...] = option(
        "targets; inf trains without privacy", above=0, unique=True, hint="use inf for no privacy"
    )
    models_per_setting: int = option(
        "models of each setting, even; each is attacked with the others as shadows",
        most=MOST_MODELS,
    )
    seed: int = option("seed of splits, memberships and initial weights", least=0)
    output: str | None = option(
        "folder for results; default results/<name> under the current folder"
    )
    dataset: DatasetConfig = option("data set and its split")
    model: Mapping[str, Any] = option("name of the model, and its options")
    training: TrainingConfig = option("how to train")
    privacy: PrivacyConfig = option("what is promised")
    defence: Mapping[str, Defence] = option("parameters of each way to train")
    attacks: Mapping[str, Mapping[str, Any]] = option("attacks to run, and their options")
    audits: tuple[str, ...] = option(
        "lower bounds of epsilon: one_run, one_run_fdp, clopper_pearson, gdp, joint_beta",
        choices=AUDITS,
        unique=True,
    )
    utility: str = option(
        "what stands in table and chart, of all that is measured: " + ", ".join(UTILITIES),
        choices=UTILITIES,
    )
    decision: Decision = option(
        "of a model of two classes: highest (posterior), or fitted (threshold, on the population)"
    )
    groups: tuple[str, ...] = option(
        "of a table: columns by whose values utility and risk are also given, such as [sex,race]",
        unique=True,
    )
    attributes: tuple[str, ...] = option(
        "of a table: columns that an attacker tries to learn of people whose rest he knows",
        unique=True,
    )
    show_examples: bool = option(
        "draw the most exposed examples, or list their rows, in the report: for who may see them"
    )
    queries: QueriesConfig = option("what some attacks ask the models")
    executor: ExecutorConfig = option("on which machines to train")
    dry_run: bool = option("print what the sweep would train, spend and take, and stop")

    def __post_init__(self) -> None:
        check_name(self.name)
        require(len(self.attacks) > 0, "attacks", "give at least one, such as [loss,lira]")
        check_fields(self)
        _check_epsilons(self)
        self._check_sizes()
        _check_training(self)
        _check_defences(self)

    def _check_sizes(self) -> None:
        """Of the fleet and, where they are known, of the splits."""
        _check_fleet(self)
        if self.dataset.known:
            _check_split(self)
            check_batch(self)

    @property
    def public_n(self) -> int:
        """The declared number of examples of a training set: half of those of the pool. Public, and
        the same whatever the memberships are.
        """
        return (self.dataset.unit_count or self.pool) // 2

    @property
    def public_users(self) -> int:
        """The declared number of users of a training set: half of those of the pool."""
        return self.pool // 2

    @property
    def pool(self) -> int:
        """Number of candidates, users where there are such. Raises ValueError where it is left to
        the data (splits.sized).
        """
        if self.dataset.pool is None:
            raise ValueError("the size of the pool follows from the data")
        return self.dataset.pool

    @property
    def steps(self) -> int:
        passes = Fraction(str(self.training.epochs))
        return math.ceil(passes * self.public_n / self.training.batch_size)

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else Path("results") / self.name

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; no DP is null. Whether it is a dry run is not of the sweep."""
        plain = dataclasses.asdict(self)
        del plain["dry_run"]
        plain["epsilons"] = [None if math.isinf(epsilon) else epsilon for epsilon in self.epsilons]
        return plain


def _check_fleet(config: Config) -> None:
    models = config.models_per_setting
    require(models >= 2, "models_per_setting", f"must be at least 2, got {models}; use 2")
    require(
        models % 2 == 0,
        "models_per_setting",
        f"must be even and at least 2, got {models}; use {max(2, models + models % 2)}",
    )


def _check_split(config: Config) -> None:
    pool, canaries = config.pool, config.dataset.canaries
    fix = f"must be even, since each model trains on half of it; use {pool - 1}"
    require(pool % 2 == 0, "dataset.pool", fix)
    half = pool // 2
    require(
        canaries == 0 or MIN_CANARIES <= canaries <= half,
        "dataset.canaries",
        f"must be 0, or lie in {MIN_CANARIES}..{half} (half the pool), got {canaries}",
    )


def _check_epsilons(config: Config) -> None:
    require(len(config.epsilons) > 0, "epsilons", "give at least one, such as [inf,8,2]")
    for epsilon in config.epsilons:
        vain = f"{epsilon:g} promises next to nothing; use at most {MAX_EPSILON}"
        fits = epsilon <= MAX_EPSILON or math.isinf(epsilon)
        require(fits, "epsilons", f"{vain}, or inf for no privacy")


def check_batch(config: Config) -> None:
    """Raise ConfigError for a delta, a batch or a number of steps that does not fit the size of a
    training set.
    """
    n, delta = config.public_n, config.privacy.delta
    publishes = "a delta of 1/n allows publishing one record"
    limit = f"must lie above 0 and below 1/n = {1 / n:.3g}, got {delta:g}; {publishes}"
    require(delta < 1 / n, "privacy.delta", limit)
    size = config.training.batch_size
    limit = f"must lie in 1..{n} (the size of a training set), got {size}"
    require(size <= n, "training.batch_size", limit)
    if isinstance(of_users := config.defence.get("dpsgd_user"), DPSGDUser):
        users = config.public_users
        few = f"must lie below 1/users = {1 / users:.3g}, got {delta:g}"
        require(delta < 1 / users, "privacy.delta", few)
        limit = f"must be at most {users} (half the users of the pool), got {of_users.batch_users}"
        require(of_users.batch_users <= users, "defence.dpsgd_user.batch_users", limit)
    require(config.steps < 2**31, "training.epochs", "gives more than 2^31 steps; lower it")


def _check_training(config: Config) -> None:
    training = config.training
    executor, device = config.executor, training.device
    agree = executor.name == "local" or device == AUTO or (device == "cuda") == (executor.gpus > 0)
    where = f"is {device}, and a task of {executor.name} has {executor.gpus:g} GPUs"
    require(agree, "training.device", f"{where}; use auto, and say how many in executor.gpus")
    alike = "views without augmentations are all the same; use 1, or give "
    require(
        training.multiplicity == 1 or len(training.augmentations) > 0,
        "training.multiplicity",
        f"{alike}training.augmentations=[flip,crop]",
    )
    require(
        "trajectory" not in config.attacks or training.trajectory > 0,
        "training.trajectory",
        "must be at least 1 for the attack trajectory; use 10, or leave that attack out",
    )


def _check_defences(config: Config) -> None:
    for name, defence in config.defence.items():
        check_fields(defence, f"defence.{name}.")
        rate = defence.learning_rate
        require(
            config.training.optimiser != OptimiserKind.ADAMW or rate <= ADAMW_RATE,
            f"defence.{name}.learning_rate",
            f"{rate:g} is for sgd; with adamw give a rate such as 0.005",
        )
    if isinstance(views := config.defence.get("augmentation"), Augmentation):
        some = f"must be a list of some of {', '.join(AUGMENTATIONS)}"
        require(len(views.augmentations) > 0, "defence.augmentation.augmentations", some)
    if isinstance(smaller := config.defence.get("smaller_model"), SmallerModel):
        require(
            len(smaller.model) > 0 and "name" not in smaller.model,
            "defence.smaller_model.model",
            "must be options of the model, such as {hidden: [16]}",
        )
    private = {epsilon for epsilon in config.epsilons if math.isfinite(epsilon)}
    for needed, wanted in (("none", len(private) < len(config.epsilons)), ("dpsgd", private)):
        epsilon = "inf" if needed == "none" else f"{min(private, default=0):g}"
        of_kind = PRIVATE if needed == "dpsgd" else (needed,)
        require(
            not wanted or any(name in config.defence for name in of_kind),
            "epsilons",
            f"{epsilon} needs the defence {needed!r}; add it to defence=[...]",
        )
    _check_users(config)
    _check_task(config)


def _check_task(config: Config) -> None:
    data, numbers = config.dataset, config.dataset.task == Task.REGRESSION
    fix = "of a regression: the least and the greatest target that may be, such as [0,100]"
    fits = len(data.bounds) == 2 and data.bounds[0] < data.bounds[-1]
    require(fits or not numbers, "dataset.bounds", f"give those {fix}")
    require(numbers or not data.bounds, "dataset.bounds", "are of task=regression; leave them out")
    of_task = OF_REGRESSION if numbers else UTILITIES[: -len(OF_REGRESSION)]
    fix = f"is no measure of a {data.task}; choose from {', '.join(of_task)}"
    require(config.utility in of_task, "utility", fix)
    fix = "is of classes, and this is a regression; leave it out"
    require(not numbers or data.canaries == 0, "dataset.canaries", fix)
    weighted = config.training.class_weights != ClassWeights.NONE
    require(not numbers or not weighted, "training.class_weights", fix)
    fitted = config.decision == Decision.FITTED
    require(not numbers or not fitted, "decision", fix)
    for name in config.defence:
        smooth = ("label_smoothing", "mixup", "relaxloss", "adversarial", "confidence_masking")
        require(not numbers or name not in smooth, f"defence.{name}", fix)


def _check_users(config: Config) -> None:
    data = config.dataset
    for name in ("dpsgd_user", "dpsgd_group"):
        fix = "protects users; say which column names them, dataset.unit=COLUMN"
        require(name not in config.defence or data.unit is not None, f"defence.{name}", fix)
    fix = "calibrates for all rows of a user: bound them, such as dataset.unit_rows=4"
    bounded = "dpsgd_group" not in config.defence or data.unit_rows is not None
    require(bounded, "defence.dpsgd_group", fix)
    for key in ("unit_rows", "unit_count"):
        fix = "is of users; say which column names them, dataset.unit=COLUMN"
        require(getattr(data, key) is None or data.unit is not None, f"dataset.{key}", fix)
    for key in ("group", "time"):
        both = data.unit is not None and getattr(data, key) is not None
        require(not both, f"dataset.{key}", "does not go with dataset.unit; leave one of them out")
    fix = "are of examples, and dpsgd_user draws users; leave them out"
    views = "dpsgd_user" in config.defence and len(config.training.augmentations) > 0
    require(not views, "training.augmentations", fix)
