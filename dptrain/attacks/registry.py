"""ATTACKS: pure functions (Scores, target, options) -> membership score [N], higher = member,
always.

An attack on model `target` reads the target's outputs, the labels, and what its attacker may have:
outputs and memberships of `scores.shadows(target)` or `scores.records(target)`, the population, the
extras. Never the target's own membership. It raises Refusal where something that it needs is not
there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from dptrain.attacks.lira import VARIANCES, lira
from dptrain.attacks.measured import (
    gradient_canary,
    gradient_norm,
    label_only,
    merlin,
    morgan,
    trajectory,
)
from dptrain.attacks.outputs import confidence, correctness, entropy, loss, modified_entropy
from dptrain.attacks.quantile import quantile
from dptrain.attacks.reference import attack_p, attack_r, difficulty
from dptrain.attacks.rmia import info_rmia, rmia
from dptrain.attacks.shadow import shadow
from dptrain.core import plugins
from dptrain.core.errors import AttackError

ATTACKS: dict[str, Callable[..., np.ndarray]] = {
    "correctness": correctness,
    "loss": loss,
    "confidence": confidence,
    "entropy": entropy,
    "modified_entropy": modified_entropy,
    "shadow": shadow,
    "difficulty": difficulty,
    "attack_p": attack_p,
    "attack_r": attack_r,
    "lira": partial(lira, online=True),
    "lira_offline": partial(lira, online=False),
    "rmia": partial(rmia, online=True, a=0.0),
    "rmia_offline": partial(rmia, online=False),
    "info_rmia": partial(info_rmia, online=True, a=0.0),
    "info_rmia_offline": partial(info_rmia, online=False),
    "quantile": quantile,
    "merlin": merlin,
    "morgan": morgan,
    "label_only": label_only,
    "gradient_norm": gradient_norm,
    "gradient_canary": gradient_canary,
    "trajectory": trajectory,
}


ALONE = (
    "correctness",
    "loss",
    "confidence",
    "entropy",
    "modified_entropy",
    "attack_p",
    "label_only",
    "merlin",
    "gradient_norm",
    "gradient_canary",
)
"""Attacks on a target that read no other model."""
RERUN = (
    "difficulty",
    "attack_r",
    "lira",
    "lira_offline",
    "rmia",
    "rmia_offline",
    "info_rmia",
    "info_rmia_offline",
)
"""Attacks that read other models and are cheap to run again on some of them."""


def names() -> list[str]:
    """Of ATTACKS and of those of other packages."""
    return plugins.known("attacks", ATTACKS)


def find(name: str) -> Callable[..., np.ndarray]:
    """An attack by its name."""
    return plugins.find("attacks", ATTACKS, name)


def code_of(name: str) -> str:
    """The source of an attack that is not ours."""
    return plugins.code_of(find(name))


CHOICES = {
    "variance": VARIANCES,
    "copies": ("noisy", "augmented"),
    "reference": ("out", "both"),
    "signal": ("loss", "logit"),
}
LIMITS = {"gamma": (0.0, 1e6), "a": (0.0, 1.0), "alpha": (0.0, 1.0)}
"""Options that are one of some words, and those that are a number above the one and at most the
other limit (`a` may be 0).
"""


def options_of(name: str) -> tuple[str, ...]:
    """The options that a user may give to an attack."""
    attack = find(name)
    known = inspect.signature(attack).parameters.values()
    fixed = getattr(attack, "keywords", {})
    return tuple(
        item.name for item in known if item.kind is item.KEYWORD_ONLY and item.name not in fixed
    )


def needs(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The arrays of scores.EXTRAS that an attack reads."""
    if name in ("merlin", "morgan"):
        return ("jittered_logits",)
    if name == "label_only":
        return (f"{options.get('copies', 'noisy')}_logits",)
    return {
        "gradient_norm": ("gradient_norm",),
        "gradient_canary": ("gradient_canary",),
        "trajectory": ("trajectory_loss",),
    }.get(name, ())


def check(attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise AttackError for an unknown attack, option or value."""
    for name, options in attacks.items():
        if name not in names():
            raise AttackError(f"unknown attack; choose from {', '.join(names())}", f"{name}")
        find(name)
        for key, value in options.items():
            path = f"{name}.{key}"
            if key not in options_of(name):
                raise AttackError("unknown option; remove it", path)
            if key in CHOICES and value not in CHOICES[key]:
                raise AttackError(
                    f"unknown value {value!r}; choose from {', '.join(CHOICES[key])}", path
                )
            if key in LIMITS:
                low, high = LIMITS[key]
                if type(value) not in (int, float) or not (
                    low < value < high or (key == "a" and value in (0, 1))
                ):
                    raise AttackError(
                        f"must be a number between {low:g} and {high:g}, got {value!r}", path
                    )
