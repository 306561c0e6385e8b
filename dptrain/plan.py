"""A sweep frozen before anything is trained: everything that can be checked without its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dptrain import attacks, data, datasets, defences, models, probe
from dptrain.augment import require_images
from dptrain.blueprint import architecture, build, supplied
from dptrain.placement import choose_device, choose_engine
from dptrain.schema import Config
from dptrain.store import code_fingerprint, fingerprint, versions
from dptrain.types import ConfigError, Setting


@dataclass(frozen=True)
class Plan:
    """A sweep frozen before anything is trained; of the data it knows what is public."""

    config: Config
    source: data.Source
    settings: tuple[Setting, ...]
    engine: str
    device: torch.device
    architecture: str
    notes: tuple[str, ...]
    tokens: bool
    """Whether the model takes whole numbers only."""
    supplied: tuple[str, ...]
    """Weights that the builder of a model brings along."""

    @property
    def fingerprint(self) -> str:
        """Of everything that a result depends on: the configuration, all code, the libraries."""
        shaping = self.config.to_json()
        del shaping["output"]
        for name in ("width", "workers", "physical_batch", "device", "checkpoint_seconds"):
            del shaping["training"][name]
        foreign = [datasets.code_of(self.config.dataset.name), *(attacks.code_of(name) for name in self.config.attacks)]
        return fingerprint(
            "run", foreign, shaping, self.source.digest, self.engine, self.architecture, code_fingerprint("*", "attacks/*"), versions()
        )


def plan(config: Config) -> Plan:
    """Check everything that needs no data, calibrate the noise, choose engine and device. Raises ConfigError."""
    source = datasets.source(config.dataset, config.seed)
    data.parts(config.dataset, config.seed, source)  # whether there are enough
    attacks.check(config.attacks)
    if "trajectory" in config.attacks and not config.training.trajectory:
        raise ConfigError("training.trajectory", "must be at least 1 for the attack trajectory; use 10, or leave that attack out")
    if config.attacks.get("label_only", {}).get("copies") == "augmented" and (len(source.shape) != 3 or min(source.shape[1:]) <= 4):
        raise ConfigError("attacks.label_only.copies", f"augmented copies are for images, and inputs are {list(source.shape)}; use noisy")
    model = build(config, source.shape, source.classes)
    probe.refuse_mixing(model, source.shape)
    tokens = probe.takes_tokens(model, source.shape)
    _refuse_tokens(config, tokens)
    probe.refuse_sampler(config.training.batch_size, config.public_n)
    settings, name = tuple(defences.settings(config)), str(config.model["name"])
    for setting in settings:
        if setting.recipe.augmentations:
            require_images(models.trained_shape(model, source.shape))
        if setting.model:
            probe.refuse_mixing(build(config, source.shape, source.classes, 0, dict(setting.model)), source.shape)
    engine, reason = choose_engine(config.training.engine, models.trained(model), models.trained_shape(model, source.shape))
    notes = (*source.notes, *((f"engine {engine}, one model at a time: {reason}",) if reason else ()))
    if engine != "stacked" and (other := next((setting for setting in settings if setting.recipe.regularised), None)):
        raise ConfigError("defence", f"{other.name} needs the stacked engine, and this model runs with {engine}; leave it out")
    return Plan(
        config,
        source,
        settings,
        engine,
        choose_device(config.training.device),
        architecture(model, source.shape, name),
        notes,
        tokens,
        () if models.is_ours(name) else tuple(supplied(*(build(config, source.shape, source.classes, seed) for seed in (1, 2)))),
    )


def _refuse_tokens(config: Config, tokens: bool) -> None:
    """Raise ConfigError for what adds numbers to inputs that are looked up in a table."""
    looked_up = "needs inputs that are numbers, and this model looks them up in a table; leave it out"
    if tokens and config.dataset.canaries and config.dataset.canary in ("noise", "gradient"):
        raise ConfigError("dataset.canary", f"{config.dataset.canary} {looked_up}")
    for name, options in config.attacks.items():
        if tokens and any(extra.endswith("_logits") for extra in attacks.needs(name, options)):
            raise ConfigError(f"attacks.{name}", looked_up)
    if tokens and "mixup" in config.defence:
        raise ConfigError("defence.mixup", looked_up)
