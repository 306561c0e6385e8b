"""DEFENCES: from a configuration to the settings that are trained.

A defence takes (config, its own parameters) and returns its settings, complete before anything is trained: no number in them comes from the data.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dptrain import accounting
from dptrain.schema import AUGMENTATIONS, CLIPPINGS, LEAST_CLIP, MOST_CLIP, Config, positive
from dptrain.types import ConfigError, Mechanism, Recipe, Sampling, Setting

ADAMW_RATE = 0.1
"""A learning rate above it was meant for SGD, whose steps are as small as the gradients."""


def _recipe(config: Config, defence: str, learning_rate: float, momentum: float, clipping: str = "flat") -> Recipe:
    """What a defence says about its steps, and what the sweep says about those of all."""
    training = config.training
    if type(momentum) not in (int, float) or not 0 <= momentum < 1:
        raise ConfigError(f"defence.{defence}.momentum", f"must lie in [0, 1), got {momentum!r}")
    if clipping not in CLIPPINGS:
        raise ConfigError(f"defence.{defence}.clipping", f"unknown value {clipping!r}; choose from {', '.join(CLIPPINGS)}")
    rate = positive(learning_rate, f"defence.{defence}.learning_rate")
    if training.optimiser == "adamw" and rate > ADAMW_RATE:
        raise ConfigError(f"defence.{defence}.learning_rate", f"{rate:g} is for sgd; with adamw give one such as 0.005")
    shared = ("optimiser", "weight_decay", "schedule", "warmup", "augmentations", "multiplicity", "average", "precision")
    return Recipe(
        learning_rate=rate,
        momentum=float(momentum),
        clipping=clipping,
        **{name: getattr(training, name) for name in shared},
    )


def _plain(config: Config, defence: str, learning_rate: float, momentum: float, **changes: Any) -> list[Setting]:
    """SGD without clipping and noise, whose recipe differs from that of `none` in `changes`."""
    batch = config.training.batch_size
    mechanism = Mechanism(Sampling.POISSON, batch, config.public_n, config.steps, 0.0, math.inf, batch)
    recipe = replace(_recipe(config, defence, learning_rate, momentum), **changes)
    if recipe.early_stopping and recipe.average:
        raise ConfigError("training.average", f"{defence} releases one iterate, and not an average; use 0")
    return [Setting(defence, defence, None, config.privacy.delta, mechanism, recipe)]


def _number(defence: str, key: str, value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low < value < high:
        raise ConfigError(f"defence.{defence}.{key}", f"must lie between {low:g} and {high:g}, got {value!r}")
    return float(value)


def none(config: Config, *, learning_rate: float, momentum: float) -> list[Setting]:
    """Plain SGD: no clipping, no noise, no epsilon. The baseline where an epsilon is inf, and wherever other plain defences are compared."""
    compared = any(name not in ("none", "dpsgd") for name in config.defence)
    wanted = compared or any(math.isinf(epsilon) for epsilon in config.epsilons)
    return _plain(config, "none", learning_rate, momentum) if wanted else []


def weight_decay(config: Config, *, learning_rate: float, momentum: float, decay: float) -> list[Setting]:
    """Krogh and Hertz 1992; with sgd it is added to the gradient."""
    return _plain(config, "weight_decay", learning_rate, momentum, weight_decay=_number("weight_decay", "decay", decay, 0, 1))


def dropout(config: Config, *, learning_rate: float, momentum: float, rate: float) -> list[Setting]:
    """Of the inputs of every layer but the first."""
    return _plain(config, "dropout", learning_rate, momentum, dropout=_number("dropout", "rate", rate, 0, 0.99))


def label_smoothing(config: Config, *, learning_rate: float, momentum: float, smoothing: float) -> list[Setting]:
    """Szegedy et al. 2016: this share of each label is spread over all classes."""
    own = _number("label_smoothing", "smoothing", smoothing, 0, 1)
    return _plain(config, "label_smoothing", learning_rate, momentum, label_smoothing=own)


def early_stopping(config: Config, *, learning_rate: float, momentum: float) -> list[Setting]:
    """The iterate with the least loss on the population split, looked at about fifty times, is released."""
    return _plain(config, "early_stopping", learning_rate, momentum, early_stopping=True)


def mixup(config: Config, *, learning_rate: float, momentum: float, alpha: float) -> list[Setting]:
    """Zhang et al. 2018: pairs of examples and their labels, mixed by a share from Beta(alpha, alpha)."""
    return _plain(config, "mixup", learning_rate, momentum, mixup=_number("mixup", "alpha", alpha, 0, 100))


def augmentation(config: Config, *, learning_rate: float, momentum: float, augmentations: list[str]) -> list[Setting]:
    """A random view of each image in each step."""
    known = isinstance(augmentations, list) and augmentations and all(name in AUGMENTATIONS for name in augmentations)
    if not known:
        raise ConfigError(
            "defence.augmentation.augmentations", f"must be a list of some of {', '.join(AUGMENTATIONS)}, got {augmentations!r}"
        )
    return _plain(config, "augmentation", learning_rate, momentum, augmentations=tuple(augmentations))


def smaller_model(config: Config, *, learning_rate: float, momentum: float, model: Mapping[str, Any]) -> list[Setting]:
    """The same model with other options, such as fewer hidden units."""
    if not isinstance(model, Mapping) or not model or "name" in model:
        raise ConfigError("defence.smaller_model.model", f"must be options of the model, such as {{hidden: [16]}}, got {model!r}")
    [setting] = _plain(config, "smaller_model", learning_rate, momentum)
    return [replace(setting, model=tuple(sorted((key, _frozen(value)) for key, value in model.items())))]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def relaxloss(config: Config, *, learning_rate: float, momentum: float, target: float) -> list[Setting]:
    """RelaxLoss (Chen et al. 2022): the training loss is held at a target instead of zero."""
    return _plain(config, "relaxloss", learning_rate, momentum, relax=_number("relaxloss", "target", target, 0, 100))


def adversarial(config: Config, *, learning_rate: float, momentum: float, weight: float) -> list[Setting]:
    """Nasr et al. 2018: the model learns against an attacker who learns from its predictions on members and on the population."""
    return _plain(config, "adversarial", learning_rate, momentum, adversary=_number("adversarial", "weight", weight, 0, 1000))


def confidence_masking(config: Config, *, learning_rate: float, momentum: float, top: int, digits: int) -> list[Setting]:
    """Plain SGD whose service tells a few rounded confidences: hides nothing from attacks that need only the label (Choquette-Choo et al. 2021)."""
    for key, value, most in (("top", top, 1000), ("digits", digits, 12)):
        if type(value) is not int or not 1 <= value <= most:
            raise ConfigError(f"defence.confidence_masking.{key}", f"must lie in 1..{most}, got {value!r}")
    return _plain(config, "confidence_masking", learning_rate, momentum, top=top, digits=digits)


def dpsgd(config: Config, *, learning_rate: float, momentum: float, clip: float, clipping: str) -> list[Setting]:
    """DP-SGD at each finite epsilon, the noise calibrated so that the PLD epsilon is at most the target.

    The step of SGD is learning_rate / max(1, noise multiplier): one number serves a whole sweep, since what limits the step is the
    noise it carries. The noise multiplier is public, so this costs no privacy. AdamW divides by the size of the noisy gradients itself.
    """
    if not LEAST_CLIP <= positive(clip, "defence.dpsgd.clip") <= MOST_CLIP:
        raise ConfigError("defence.dpsgd.clip", f"must lie in [{LEAST_CLIP:g}, {MOST_CLIP:g}], got {clip!r}")
    clip = float(clip)
    recipe = _recipe(config, "dpsgd", learning_rate, momentum, clipping)
    batch, delta = config.training.batch_size, config.privacy.delta
    settings = []
    for epsilon in sorted((e for e in config.epsilons if math.isfinite(e)), reverse=True):
        start = Mechanism(Sampling.POISSON, batch, config.public_n, config.steps, 0.0, clip, batch)
        try:
            mechanism = accounting.calibrate(start, epsilon, delta)
        except ValueError as error:
            raise ConfigError("epsilons", f"{error}; ask for a larger epsilon or fewer epochs") from None
        by = max(1.0, mechanism.noise_multiplier) if recipe.optimiser == "sgd" else 1.0
        own = replace(recipe, learning_rate=recipe.learning_rate / by)
        settings.append(Setting(f"dpsgd-{repr(epsilon).removesuffix('.0')}", "dpsgd", epsilon, delta, mechanism, own))
    return settings


DEFENCES: dict[str, Callable[..., list[Setting]]] = {
    "none": none,
    "weight_decay": weight_decay,
    "dropout": dropout,
    "label_smoothing": label_smoothing,
    "early_stopping": early_stopping,
    "mixup": mixup,
    "augmentation": augmentation,
    "smaller_model": smaller_model,
    "relaxloss": relaxloss,
    "adversarial": adversarial,
    "confidence_masking": confidence_masking,
    "dpsgd": dpsgd,
}


def settings(config: Config) -> list[Setting]:
    """The settings of a sweep, in order of falling epsilon. Raises ConfigError."""
    planned: list[Setting] = []
    for name, parameters in config.defence.items():
        if name not in DEFENCES:
            raise ConfigError(f"defence.{name}", f"unknown defence; choose from {', '.join(DEFENCES)}")
        known = [key for key in inspect.signature(DEFENCES[name]).parameters if key != "config"]
        for key in [*parameters, *known]:
            if key not in known:
                raise ConfigError(f"defence.{name}.{key}", f"unknown key; {name} takes {', '.join(known)}")
            if key not in parameters:
                raise ConfigError(f"defence.{name}.{key}", "missing; give it a value")
        planned += DEFENCES[name](config, **parameters)
    have = {setting.epsilon for setting in planned}
    for epsilon in config.epsilons:
        if (None if math.isinf(epsilon) else epsilon) not in have:
            missing = "none" if math.isinf(epsilon) else "dpsgd"
            raise ConfigError("epsilons", f"{epsilon:g} needs the defence {missing!r}; add it to defence=[...]")
    return sorted(planned, key=lambda setting: -(setting.epsilon or math.inf))


def described(recipe: Recipe) -> str:
    """For the statement: what was added, or nothing."""
    parts = [
        (recipe.weight_decay, f"weight decay {recipe.weight_decay:g}"),
        (recipe.dropout, f"dropout {recipe.dropout:g}"),
        (recipe.label_smoothing, f"label smoothing {recipe.label_smoothing:g}"),
        (recipe.mixup, f"mixup {recipe.mixup:g}"),
        (recipe.relax, f"RelaxLoss {recipe.relax:g}"),
        (recipe.adversary, f"adversarial regularisation {recipe.adversary:g}"),
        (recipe.early_stopping, "early stopping on the population split"),
        (recipe.top, f"of its confidences the top {recipe.top} told with {recipe.digits} decimals"),
        (recipe.augmentations, f"augmentations {', '.join(recipe.augmentations)}"),
    ]
    return ", ".join(text for value, text in parts if value)
