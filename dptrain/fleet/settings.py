"""DEFENCES: from a configuration to the settings that are trained.

A defence takes (config, its parameters) and returns its settings, complete before anything is
trained: no number in them comes from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from dptrain.config import defences
from dptrain.config.defences import DPSGD, Defence, DPSGDUser
from dptrain.config.schema import Config
from dptrain.core.errors import TargetError, TrainingError
from dptrain.core.types import (
    Clipping,
    Loss,
    Mechanism,
    Optimiser,
    OptimiserKind,
    Recipe,
    Regularisation,
    Release,
    Sampling,
    Setting,
    Task,
    Unit,
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
        class_weights=training.class_weights,
        loss=training.error if config.dataset.task == Task.REGRESSION else Loss.CROSS_ENTROPY,
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
    compared = any(name not in ("none", *defences.PRIVATE) for name in config.defence)
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
    delta = config.privacy.delta
    return [
        private(config, defence, epsilon, _calibrated(start, epsilon, delta))
        for epsilon in _targets(config)
    ]


def dpsgd_user(config: Config, defence: DPSGDUser) -> list[Setting]:
    """User-level DP-SGD (McMahan et al. 2018): users are drawn by coins, and the mean gradient of
    some of the examples of each is clipped as one. Raises TargetError as dpsgd does.
    """
    batch, users = defence.batch_users, config.public_users
    steps = math.ceil(Fraction(str(config.training.epochs)) * users / batch)
    start = Mechanism(
        Sampling.POISSON, batch, users, steps, 0.0, defence.clip, batch, unit=Unit.USER
    )
    settings = []
    for epsilon in _targets(config):
        mechanism = _calibrated(start, epsilon, config.privacy.delta)
        setting = private(config, defence, epsilon, mechanism)
        recipe = replace(setting.recipe, examples_per_user=defence.examples_per_user)
        settings.append(_renamed(setting, "dpsgd_user", recipe))
    return settings


def dpsgd_group(config: Config, defence: DPSGD) -> list[Setting]:
    """DP-SGD of examples, with so much noise that all rows of a user together are within epsilon
    (privacy.pld.group_epsilon). Raises TargetError as dpsgd does.
    """
    start, size = without_noise(config, defence), config.dataset.unit_rows or 1
    settings = []
    for epsilon in _targets(config):

        def risk(ran: Mechanism) -> float:
            return pld.group_epsilon(ran, config.privacy.delta, size)

        try:
            mechanism = pld.least_noise(start, risk, epsilon, f"epsilon {epsilon:g} of {size} rows")
        except ValueError as error:
            fix = "ask for a larger epsilon, or for fewer rows of a user"
            raise TargetError(f"{error}; {fix}", "epsilons") from None
        setting = replace(private(config, defence, epsilon, mechanism), group=size)
        settings.append(_renamed(setting, "dpsgd_group", setting.recipe))
    return settings


def _renamed(setting: Setting, defence: str, recipe: Recipe) -> Setting:
    name = setting.name.replace(setting.defence, defence, 1)
    return replace(setting, name=name, defence=defence, recipe=recipe)


def _targets(config: Config) -> list[float]:
    """The finite epsilons, the largest first."""
    return sorted((each for each in config.epsilons if math.isfinite(each)), reverse=True)


def _calibrated(start: Mechanism, epsilon: float, delta: float) -> Mechanism:
    """Raises TargetError for an epsilon that no noise reaches."""
    try:
        return pld.calibrate(start, epsilon, delta)
    except ValueError as error:
        fix = "ask for a larger epsilon or fewer epochs"
        raise TargetError(f"{error}; {fix}", "epsilons") from None


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
    "dpsgd_user": dpsgd_user,
    "dpsgd_group": dpsgd_group,
}


def settings(config: Config) -> list[Setting]:
    """The settings of a sweep, in order of falling epsilon."""
    planned = [
        setting
        for name, parameters in config.defence.items()
        for setting in DEFENCES[name](config, parameters)
    ]
    return sorted(planned, key=lambda setting: -(setting.epsilon or math.inf))
