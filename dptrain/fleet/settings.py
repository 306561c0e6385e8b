"""DEFENCES: from a configuration to the settings that are trained.

A defence takes (config, its parameters) and returns its settings, complete before anything is
trained: no number in them comes from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dptrain.config import defences
from dptrain.config.defences import DPSGD, Defence
from dptrain.config.schema import Config
from dptrain.core.errors import TargetError, TrainingError
from dptrain.core.types import (
    Clipping,
    Mechanism,
    Optimiser,
    OptimiserKind,
    Recipe,
    Regularisation,
    Release,
    Sampling,
    Setting,
    Views,
)
from dptrain.privacy import pld


def _recipe(config: Config, defence: Defence, clipping: Clipping = Clipping.FLAT) -> Recipe:
    """What a defence says about its steps, and what the sweep says about those of all."""
    training = config.training
    return Recipe(
        Optimiser(
            defence.learning_rate,
            defence.momentum,
            training.optimiser,
            training.weight_decay,
            training.schedule,
            training.warmup,
        ),
        clipping,
        training.precision,
        Views(training.augmentations, training.multiplicity),
        release=Release(training.average),
    )


def _plain(config: Config, name: str, recipe: Recipe) -> Setting:
    """SGD without clipping and noise."""
    batch, n = config.training.batch_size, config.public_n
    ran = Mechanism(Sampling.POISSON, batch, n, config.steps, 0.0, math.inf, batch)
    return Setting(name, name, None, config.privacy.delta, ran, recipe)


def none(config: Config, defence: Defence) -> list[Setting]:
    """Plain SGD: no clipping, no noise, no epsilon. The baseline where an epsilon is inf, and
    wherever other plain defences are compared.
    """
    compared = any(name not in ("none", "dpsgd") for name in config.defence)
    wanted = compared or any(math.isinf(epsilon) for epsilon in config.epsilons)
    return [_plain(config, "none", _recipe(config, defence))] if wanted else []


def weight_decay(config: Config, defence: defences.WeightDecay) -> list[Setting]:
    """Krogh and Hertz 1992; with sgd it is added to the gradient."""
    recipe = _recipe(config, defence)
    optimiser = replace(recipe.optimiser, weight_decay=defence.decay)
    return [_plain(config, "weight_decay", replace(recipe, optimiser=optimiser))]


def _regularised(
    config: Config, name: str, defence: Defence, regularisation: Regularisation
) -> list[Setting]:
    recipe = replace(_recipe(config, defence), regularisation=regularisation)
    return [_plain(config, name, recipe)]


def dropout(config: Config, defence: defences.Dropout) -> list[Setting]:
    """Of the inputs of every layer but the first."""
    return _regularised(config, "dropout", defence, Regularisation(dropout=defence.rate))


def label_smoothing(config: Config, defence: defences.LabelSmoothing) -> list[Setting]:
    """Szegedy et al. 2016: this share of each label is spread over all classes."""
    smoothing = Regularisation(label_smoothing=defence.smoothing)
    return _regularised(config, "label_smoothing", defence, smoothing)


def mixup(config: Config, defence: defences.Mixup) -> list[Setting]:
    """Zhang et al. 2018: pairs of examples and their labels, mixed by a share from Beta(alpha,
    alpha).
    """
    return _regularised(config, "mixup", defence, Regularisation(mixup=defence.alpha))


def relaxloss(config: Config, defence: defences.RelaxLoss) -> list[Setting]:
    """RelaxLoss (Chen et al. 2022): the training loss is held at a target instead of zero."""
    return _regularised(config, "relaxloss", defence, Regularisation(relax=defence.target))


def adversarial(config: Config, defence: defences.Adversarial) -> list[Setting]:
    """Nasr et al. 2018: the model learns against an attacker who learns from its predictions on
    members and on the population.
    """
    return _regularised(config, "adversarial", defence, Regularisation(adversary=defence.weight))


def early_stopping(config: Config, defence: Defence) -> list[Setting]:
    """The iterate with the least loss on the population split, looked at about fifty times, is
    released. Raises TrainingError beside a moving average.
    """
    if config.training.average:
        message = "early_stopping releases one iterate, and not an average; use 0"
        raise TrainingError(message, "average")
    recipe = replace(_recipe(config, defence), release=Release(early_stopping=True))
    return [_plain(config, "early_stopping", recipe)]


def augmentation(config: Config, defence: defences.Augmentation) -> list[Setting]:
    """A random view of each image in each step."""
    recipe = _recipe(config, defence)
    views = replace(recipe.views, augmentations=defence.augmentations)
    return [_plain(config, "augmentation", replace(recipe, views=views))]


def smaller_model(config: Config, defence: defences.SmallerModel) -> list[Setting]:
    """The same model with other options, such as fewer hidden units."""
    setting = _plain(config, "smaller_model", _recipe(config, defence))
    options = sorted((key, _frozen(value)) for key, value in defence.model.items())
    return [replace(setting, model=tuple(options))]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def confidence_masking(config: Config, defence: defences.ConfidenceMasking) -> list[Setting]:
    """Plain SGD whose service gives a few rounded confidences: hides nothing from attacks that need
    only the label (Choquette-Choo et al. 2021).
    """
    recipe = _recipe(config, defence)
    release = replace(recipe.release, top=defence.top, digits=defence.digits)
    return [_plain(config, "confidence_masking", replace(recipe, release=release))]


def dpsgd(config: Config, defence: DPSGD) -> list[Setting]:
    """DP-SGD at each finite epsilon, the noise calibrated so that the PLD epsilon is at most the
    target.

    The step of SGD is learning_rate / max(1, noise multiplier): one number serves a whole sweep,
    since what limits the step is the noise it carries. The noise multiplier is public, so this
    costs no privacy. AdamW divides by the size of the noisy gradients itself.

    Raises TargetError for an epsilon that no noise reaches.
    """
    start = without_noise(config, defence)
    settings = []
    for epsilon in sorted((e for e in config.epsilons if math.isfinite(e)), reverse=True):
        try:
            mechanism = pld.calibrate(start, epsilon, config.privacy.delta)
        except ValueError as error:
            fix = "ask for a larger epsilon or fewer epochs"
            raise TargetError(f"{error}; {fix}", "epsilons") from None
        settings.append(private(config, defence, epsilon, mechanism))
    return settings


def without_noise(config: Config, defence: DPSGD) -> Mechanism:
    """The mechanism of DP-SGD but for its noise."""
    batch = config.training.batch_size
    return Mechanism(
        Sampling.POISSON, batch, config.public_n, config.steps, 0.0, defence.clip, batch
    )


def private(config: Config, defence: DPSGD, epsilon: float, mechanism: Mechanism) -> Setting:
    """The setting of DP-SGD with a mechanism, whose target is `epsilon`."""
    recipe = _recipe(config, defence, defence.clipping)
    sgd = recipe.optimiser.kind == OptimiserKind.SGD
    by = max(1.0, mechanism.noise_multiplier) if sgd else 1.0
    rate = recipe.optimiser.learning_rate / by
    slower = replace(recipe, optimiser=replace(recipe.optimiser, learning_rate=rate))
    name = f"dpsgd-{repr(epsilon).removesuffix('.0')}"
    return Setting(name, "dpsgd", epsilon, config.privacy.delta, mechanism, slower)


DEFENCES: dict[str, Callable[[Config, Any], list[Setting]]] = {
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
    """The settings of a sweep, in order of falling epsilon."""
    planned = [
        setting
        for name, parameters in config.defence.items()
        for setting in DEFENCES[name](config, parameters)
    ]
    return sorted(planned, key=lambda setting: -(setting.epsilon or math.inf))
