"""A sweep frozen before anything is trained: everything that can be checked without its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from dptrain import attacks, models
from dptrain.config.fields import require
from dptrain.config.keys import named
from dptrain.config.schema import AUTO, Config
from dptrain.core.errors import AttackError, DataError, SettingError
from dptrain.core.store import PACKAGES, code_fingerprint, fingerprint, versions
from dptrain.core.types import ClassWeights, Decision, EngineKind, Setting, Task
from dptrain.data import datasets, splits
from dptrain.evaluation.subgroups import MOST_GROUPS
from dptrain.fleet.blueprint import architecture, build, supplied
from dptrain.fleet.placement import choose_device, choose_engine
from dptrain.fleet.settings import settings as planned_settings
from dptrain.models import validation
from dptrain.training.augmentation import CROP, require_images
from dptrain.training.checks import refuse_sampler

OF_CLASSES = ("correctness", "entropy", "modified_entropy", "shadow", "label_only", "quantile")
"""Attacks that read more than the likelihood of the right answer."""


@dataclass(frozen=True)
class Plan:
    """A sweep frozen before anything is trained; of the data it knows what is public."""

    config: Config
    source: splits.Source
    settings: tuple[Setting, ...]
    engine: EngineKind
    device: torch.device
    architecture: str
    notes: tuple[str, ...]
    tokens: bool
    """Whether the model takes whole numbers only."""
    supplied: tuple[str, ...]
    """Weights that the builder of a model brings along."""
    counted: bool
    """Whether the sizes of the splits follow from the number of rows, and were not given."""

    @property
    def fingerprint(self) -> str:
        """Of everything that a result depends on: the configuration, all code, the libraries."""
        shaping = self.config.to_json()
        del shaping["output"], shaping["executor"]
        for name in ("width", "workers", "physical_batch", "device", "checkpoint_seconds"):
            del shaping["training"][name]
        foreign = [
            datasets.code_of(self.config.dataset.name),
            *(attacks.code_of(name) for name in self.config.attacks),
        ]
        return fingerprint(
            "run",
            foreign,
            shaping,
            self.source.digest,
            self.engine,
            self.architecture,
            code_fingerprint(*PACKAGES),
            versions(),
        )


def plan(config: Config) -> Plan:
    """Check everything that needs no data, calibrate the noise, choose engine and device. Raises
    ConfigError.
    """
    with named():
        return _plan(config)


def _plan(config: Config) -> Plan:
    source = datasets.source(config.dataset, config.seed)
    splits.parts(config.dataset, config.seed, source)  # whether there are enough
    counted = not config.dataset.known
    config = replace(config, dataset=splits.sized(config.dataset, source))
    attacks.check(config.attacks)
    _refuse_copies(config, source.shape)
    require(
        config.decision == Decision.HIGHEST or source.classes == 2,
        "decision",
        f"a threshold is for two classes, and there are {source.classes}; use decision=highest",
    )
    model = build(config, source.shape, source.classes)
    validation.refuse_mixing(model, source.shape)
    tokens = validation.takes_tokens(model, source.shape)
    _refuse_tokens(config, tokens)
    of_columns = {
        "dataset.id": config.dataset.id,
        "groups": config.groups,
        "attributes": config.attributes,
    }
    for key, given in of_columns.items():
        fix = f"is for columns of a table, and {config.dataset.name} is none"
        require(not given or source.column is not None, key, fix)
    _require_groups(config, source)
    _require_attributes(config, source)
    _refuse_classes(config)
    refuse_sampler(config.training.batch_size, config.public_n)
    settings = tuple(planned_settings(config))
    trained, shape = models.trained(model), models.trained_shape(model, source.shape)
    _check_settings(config, settings, source, shape)
    wanted = config.training.engine
    engine, reason = choose_engine(None if wanted == AUTO else EngineKind(wanted), trained, shape)
    _refuse_regularisers(settings, engine)
    notes = [*source.notes]
    if source.users is not None and "dpsgd" in config.defence:
        notes.append(
            f"dpsgd protects single rows, and every row of a {source.user} comes and goes with the "
            "others here: no ceiling stands beside its attacks"
        )
    if reason:
        notes.append(f"engine {engine}, one model at a time: {reason}")
    name = str(config.model["name"])
    return Plan(
        config,
        source,
        settings,
        engine,
        choose_device(config.training.device),
        architecture(model, source.shape, name),
        tuple(notes),
        tokens,
        () if models.is_ours(name) else _supplied(config, source),
        counted,
    )


def _supplied(config: Config, source: splits.Source) -> tuple[str, ...]:
    """Names of weights that the builder of a foreign model brings along."""
    pair = (build(config, source.shape, source.classes, seed) for seed in (1, 2))
    return tuple(supplied(*pair))


def _require_groups(config: Config, source: splits.Source) -> None:
    """Raise ConfigError for columns that the data do not have."""
    for name in config.groups:
        assert source.column is not None
        try:
            count = len(np.unique(source.column(name)))
        except KeyError:
            require(False, "groups", f"there is no column {name!r}; see dptrain inspect")
        if source.users is not None:
            pairs = {*zip(source.users.tolist(), source.column(name).tolist(), strict=True)}
            same = len(pairs) == len(np.unique(source.users))
            fix = f"{name} has several values for one {source.user}; choose another"
            require(same, "groups", fix)
        most = f"{name} has {count:,} values, and there may be {MOST_GROUPS}; choose another"
        require(count <= MOST_GROUPS, "groups", most)


def _require_attributes(config: Config, source: splits.Source) -> None:
    """Raise ConfigError for columns that cannot be attacked."""
    for name in config.attributes:
        assert source.attribute is not None
        try:
            source.attribute(name)
        except DataError as error:
            require(False, "attributes", str(error))


def _check_settings(
    config: Config,
    settings: tuple[Setting, ...],
    source: splits.Source,
    shape: tuple[int, ...],
) -> None:
    """Raise for a setting that does not fit the data, or whose own model must not be trained."""
    for setting in settings:
        weighted = setting.recipe.class_weights != ClassWeights.NONE
        if weighted and setting.recipe.regularisation.active:
            fix = "changes the loss itself; leave it out, or use training.class_weights=none"
            raise SettingError(f"{setting.name} {fix}")
        views = setting.recipe.views.augmentations
        if views and views != config.training.augmentations:
            require_images(shape, partial(SettingError, about=setting.defence))
        elif views:
            require_images(shape)
        if setting.model:
            options = dict(setting.model)
            other = build(config, source.shape, source.classes, 0, options)
            validation.refuse_mixing(other, source.shape)


def _refuse_regularisers(settings: tuple[Setting, ...], engine: EngineKind) -> None:
    """Raise SettingError for a regulariser that the engine cannot do."""
    if engine == EngineKind.STACKED:
        return
    for setting in settings:
        if setting.recipe.regularisation.active:
            runs = f"needs the stacked engine, and this model runs with {engine}"
            raise SettingError(f"{setting.name} {runs}; leave it out")


def _refuse_copies(config: Config, shape: tuple[int, ...]) -> None:
    """Raise AttackError for augmented copies of what are no images."""
    augmented = config.attacks.get("label_only", {}).get("copies") == "augmented"
    if augmented and (len(shape) != 3 or min(shape[1:]) <= CROP):
        message = f"augmented copies are for images, and inputs are {list(shape)}; use noisy"
        raise AttackError(message, "label_only.copies")


def _refuse_tokens(config: Config, tokens: bool) -> None:
    """Raise for what adds numbers to inputs that are looked up in a table."""
    if not tokens:
        return
    looked_up = (
        "needs inputs that are numbers, and this model looks them up in a table; leave it out"
    )
    if config.dataset.canaries and config.dataset.canary in ("noise", "gradient"):
        raise DataError(f"{config.dataset.canary} {looked_up}", "canary")
    for name, options in config.attacks.items():
        if any(extra.endswith("_logits") for extra in attacks.needs(name, options)):
            raise AttackError(looked_up, name)
    if "mixup" in config.defence:
        raise SettingError(looked_up, "mixup")


def _refuse_classes(config: Config) -> None:
    """Raise AttackError for what attacks classes, where a number is predicted."""
    if config.dataset.task != Task.REGRESSION:
        return
    for name, options in config.attacks.items():
        if name in OF_CLASSES or attacks.needs(name, options):
            raise AttackError("attacks classes, and this is a regression; leave it out", name)
