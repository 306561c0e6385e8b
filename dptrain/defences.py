"""DEFENCES: from a configuration to the settings that are trained.

A defence takes (config, its own parameters) and returns its settings, complete before any data are read.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

from dptrain import accounting
from dptrain.config import Config, positive
from dptrain.types import ConfigError, Mechanism, Sampling, Setting


def _momentum(value: float, key: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ConfigError(key, f"must lie in [0, 1), got {value!r}")
    return float(value)


def none(config: Config, *, learning_rate: float, momentum: float) -> list[Setting]:
    """Plain SGD: no clipping, no noise, no epsilon."""
    if not any(math.isinf(epsilon) for epsilon in config.epsilons):
        return []
    batch = config.training.batch_size
    mechanism = Mechanism(Sampling.POISSON, batch, config.public_n, config.steps, 0.0, math.inf, batch)
    rate = positive(learning_rate, "defence.none.learning_rate")
    return [Setting("none", "none", None, config.privacy.delta, mechanism, rate, _momentum(momentum, "defence.none.momentum"))]


def dpsgd(config: Config, *, learning_rate: float, momentum: float, clip: float) -> list[Setting]:
    """DP-SGD at each finite epsilon, the noise calibrated so that the PLD epsilon is at most the target.

    The step is learning_rate / max(1, noise multiplier): one number serves a whole sweep, since what limits the step is the
    noise it carries. The noise multiplier is public, so this costs no privacy.
    """
    clip = positive(clip, "defence.dpsgd.clip")
    rate = positive(learning_rate, "defence.dpsgd.learning_rate")
    momentum = _momentum(momentum, "defence.dpsgd.momentum")
    batch, delta = config.training.batch_size, config.privacy.delta
    settings = []
    for epsilon in sorted((e for e in config.epsilons if math.isfinite(e)), reverse=True):
        start = Mechanism(Sampling.POISSON, batch, config.public_n, config.steps, 0.0, clip, batch)
        try:
            mechanism = accounting.calibrate(start, epsilon, delta)
        except ValueError as error:
            raise ConfigError("epsilons", f"{error}; ask for a larger epsilon or fewer epochs") from None
        scaled = rate / max(1.0, mechanism.noise_multiplier)
        settings.append(Setting(f"dpsgd-{repr(epsilon).removesuffix('.0')}", "dpsgd", epsilon, delta, mechanism, scaled, momentum))
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
