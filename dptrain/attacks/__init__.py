"""Membership attacks: pure functions (Scores, target, options) -> membership score [N]."""

from dptrain.attacks.registry import (
    ALONE,
    ATTACKS,
    RERUN,
    check,
    code_of,
    find,
    names,
    needs,
    options_of,
)

__all__ = [
    "ALONE",
    "ATTACKS",
    "RERUN",
    "check",
    "code_of",
    "find",
    "names",
    "needs",
    "options_of",
]
