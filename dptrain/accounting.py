"""Proved upper bounds for the mechanism a trainer ran: epsilon, the noise for a target, the trade-off curve.

The claim is the privacy loss distribution (PLD) of the Poisson-subsampled Gaussian, composed over all steps (Koskela et al. 2020;
Doroshenko et al. 2022, the connect-the-dots rounding of `dp_accounting`), which errs upwards. A mechanism it does not
cover raises UnsupportedMechanism.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld_lib

from dptrain.types import Mechanism, Neighbouring, Sampling

SLACK = 1e-3
"""Calibration returns an epsilon in [target - SLACK, target]."""

_FPR = np.unique(np.concatenate([[0.0], np.logspace(-6, 0, 601), np.linspace(0, 1, 1001)]))


class UnsupportedMechanism(ValueError):
    """The accountant has no bound for this mechanism."""


def _check(mechanism: Mechanism) -> None:
    if mechanism.sampling is not Sampling.POISSON or mechanism.neighbouring is not Neighbouring.ADD_REMOVE:
        raise UnsupportedMechanism(f"no bound for {mechanism.sampling} sampling with {mechanism.neighbouring} neighbours")
    if not mechanism.private:
        raise UnsupportedMechanism("no noise was added: no epsilon holds")
    if not math.isfinite(mechanism.clip) or mechanism.clip <= 0:
        raise UnsupportedMechanism("gradients were not clipped to a finite norm: no epsilon holds")
    if not 0 < mechanism.batch_size <= mechanism.public_n or mechanism.steps < 1:
        raise UnsupportedMechanism("sample rate must lie in (0, 1] and steps be at least 1")


@lru_cache(maxsize=8)
def _pld(mechanism: Mechanism, grid: float) -> pld_lib.PrivacyLossDistribution:
    _check(mechanism)
    single = pld_lib.from_gaussian_mechanism(
        mechanism.noise_multiplier,
        sampling_prob=float(mechanism.sample_rate),
        value_discretization_interval=grid,
        use_connect_dots=True,
    )
    return single.self_compose(mechanism.steps)


def _grid(epsilon: float) -> float:
    """Spacing of privacy losses: its rounding is upwards, and matters where epsilon is small."""
    return 1e-3 if epsilon > 2 else 1e-4


def epsilon(mechanism: Mechanism, delta: float) -> float:
    """Upper bound of epsilon at `delta`, from the PLD. Raises UnsupportedMechanism."""
    coarse = _pld(mechanism, 1e-3).get_epsilon_for_delta(delta)
    if _grid(coarse) < 1e-3:
        return max(0.0, _pld(mechanism, _grid(coarse)).get_epsilon_for_delta(delta))
    return max(0.0, coarse)


@lru_cache(maxsize=64)
def calibrate(mechanism: Mechanism, target: float, delta: float) -> Mechanism:
    """`mechanism` with the least noise multiplier (within SLACK) whose epsilon(...) at `delta` is at most `target`.

    Bisection on the PLD; the returned end is verified to be on the safe side. Raises ValueError for a target that no
    noise multiplier up to 1e6 reaches.
    """

    def spent(sigma: float) -> float:
        return epsilon(replace(mechanism, noise_multiplier=sigma), delta)

    low, high = 0.0, 1.0
    while spent(high) > target:
        low, high = high, high * 2
        if high > 1e6:
            raise ValueError(f"no noise multiplier up to 1e6 gives epsilon {target:g} at delta {delta:g}")
    if low == 0.0:
        low = high / 2
        while low > 0.05 and spent(low) <= target:
            low, high = low / 2, low
    while high - low > 1e-9 * high and spent(high) < target - SLACK:
        middle = (low + high) / 2
        if spent(middle) > target:
            low = middle
        else:
            high = middle
    return replace(mechanism, noise_multiplier=high)


@dataclass(frozen=True)
class TradeOff:
    """The most any attack can reach: at false positive rate fpr[i], no attack's true positive rate exceeds tpr[i]."""

    fpr: np.ndarray
    tpr: np.ndarray
    max_advantage: float
    """Ceiling of TPR - FPR: delta at epsilon 0."""

    def max_tpr(self, fpr: float) -> float:
        """Ceiling of the true positive rate at a false positive rate: that of the next grid point, since the curve rises."""
        return float(self.tpr[np.searchsorted(self.fpr, fpr, side="left")])

    @property
    def max_auc(self) -> float:
        """Ceiling of the area under the ROC, as an upper sum."""
        return float(np.clip(np.sum(self.tpr[1:] * np.diff(self.fpr)), 0, 1))


@lru_cache(maxsize=64)
def trade_off(mechanism: Mechanism) -> TradeOff:
    """Ceiling over the whole ROC of distinguishing two neighbouring data sets.

    Every (epsilon, delta(epsilon)) pair of the PLD bounds the ROC by TPR <= min(e^eps FPR + delta, 1 - e^-eps (1 - delta - FPR))
    (Kairouz et al. 2015, theorem 2.1); the lower envelope over a grid of epsilons is returned, so each point is a valid bound.
    """
    pld = _pld(mechanism, _grid(_pld(mechanism, 1e-3).get_epsilon_for_delta(1e-9)))
    top = max(pld.get_epsilon_for_delta(1e-9), 0.1)
    grid = np.linspace(0, min(top, 60.0), 600)
    deltas = np.clip([pld.get_delta_for_epsilon(e) for e in grid], 0, 1)
    first = np.exp(grid)[:, None] * _FPR + deltas[:, None]
    second = 1 - np.exp(-grid)[:, None] * (1 - deltas[:, None] - _FPR)
    return TradeOff(_FPR, np.clip(np.minimum(first, second).min(axis=0), 0, 1), float(deltas[0]))


def claimed_trade_off(epsilon: float, delta: float) -> TradeOff:
    """The same ceiling from nothing but a claim of (epsilon, delta), of which the mechanism is not known (Kairouz et al. 2015, theorem 2.1)."""
    first, second = np.exp(epsilon) * _FPR + delta, 1 - np.exp(-epsilon) * (1 - delta - _FPR)
    most = (np.expm1(epsilon) + 2 * delta) / (np.exp(epsilon) + 1)
    return TradeOff(_FPR, np.clip(np.minimum(first, second), 0, 1), float(most))


def unamplified_epsilon(mechanism: Mechanism, delta: float) -> float:
    """Epsilon if the attacker knew every batch: the same run at sample rate 1."""
    return epsilon(replace(mechanism, batch_size=mechanism.public_n), delta)


@lru_cache(maxsize=64)
def second_opinions(mechanism: Mechanism, delta: float) -> dict[str, float | None]:
    """Opacus's PRV and RDP epsilons beside the claim; None where its accountant gives no usable number.

    Opacus is imported here, on call, because it imports torch and a judge must load without it.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant

    _check(mechanism)
    accountants: dict[str, Callable[[], PRVAccountant | RDPAccountant]] = {"PRV": PRVAccountant, "RDP": RDPAccountant}
    opinions: dict[str, float | None] = {}
    for name, make in accountants.items():
        accountant = make()
        accountant.history = [(mechanism.noise_multiplier, float(mechanism.sample_rate), mechanism.steps)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a loose order or a coarse grid: this number is no claim
                value = float(accountant.get_epsilon(delta=delta))
        except (ArithmeticError, ValueError, RuntimeError, MemoryError):
            value = math.nan
        opinions[name] = value if math.isfinite(value) and value >= 0 else None
    return opinions
