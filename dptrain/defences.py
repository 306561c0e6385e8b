"""DEFENCES: from a configuration to the settings that are trained.

A defence takes (config, its own parameters) and returns its settings, complete before anything is trained: no number in them comes from the data.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

from dptrain import accounting
from dptrain.schema import CLIPPINGS, Config, positive
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
        summed_gaussians=config.privacy.summed_gaussians,
        **{name: getattr(training, name) for name in shared},
    )


def none(config: Config, *, learning_rate: float, momentum: float) -> list[Setting]:
    """Plain SGD: no clipping, no noise, no epsilon."""
    if not any(math.isinf(epsilon) for epsilon in config.epsilons):
        return []
    batch = config.training.batch_size
    mechanism = Mechanism(Sampling.POISSON, batch, config.public_n, config.steps, 0.0, math.inf, batch)
    return [Setting("none", "none", None, config.privacy.delta, mechanism, _recipe(config, "none", learning_rate, momentum))]


def dpsgd(config: Config, *, learning_rate: float, momentum: float, clip: float, clipping: str) -> list[Setting]:
    """DP-SGD at each finite epsilon, the noise calibrated so that the PLD epsilon is at most the target.

    The step of SGD is learning_rate / max(1, noise multiplier): one number serves a whole sweep, since what limits the step is the
    noise it carries. The noise multiplier is public, so this costs no privacy. AdamW divides by the size of the noisy gradients itself.
    """
    clip = positive(clip, "defence.dpsgd.clip")
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


DEFENCES: dict[str, Callable[..., list[Setting]]] = {"none": none, "dpsgd": dpsgd}


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
