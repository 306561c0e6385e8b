"""The noise for a target, and everything that a noise multiplier buys (Kulynych et al. 2024 for
targets that are risks of attacks).
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dptrain.config.commands import CalibrateConfig, Law
from dptrain.core.errors import TargetError, first_line
from dptrain.core.types import Mechanism, Neighbouring, Sampling
from dptrain.privacy import pld, rdp, selection
from dptrain.privacy.prv import prv_epsilon
from dptrain.privacy.selection import Trials

SHAPES = {Law.GEOMETRIC: 1.0, Law.LOGARITHMIC: 0.0, Law.POISSON: math.inf}
"""Of the laws of the number of trials."""


@dataclass(frozen=True)
class Answer:
    """values: name to number, None where there is none; meanings: name to what stands beside it in
    the table.
    """

    values: dict[str, float | None]
    meanings: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """A line for each value, with its meaning."""
        return pd.DataFrame({"value": self.values, "meaning": self.meanings}).rename_axis("name")

    def json(self) -> str:
        return json.dumps(self.values, indent=1, allow_nan=False)

    def table(self) -> str:
        width = max(map(len, self.values))
        return "\n".join(
            f"{name:<{width}}  {_shown(value):>12}  {self.meanings[name]}"
            for name, value in self.values.items()
        )


UPWARDS = decimal.Context(prec=6, rounding=decimal.ROUND_CEILING)


def _shown(value: float | None) -> str:
    """Four decimals, or six digits of what those cannot show, rounded upwards as bounds must be;
    counts as they are.
    """
    if value is None:
        return "-"
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:.6g}"
    if value >= 1e6 or 0 < value < 1e-3:
        return f"{float(UPWARDS.create_decimal(repr(float(value)))):.6g}"
    return f"{math.ceil(value * 1e4 - 1e-7) / 1e4:.4f}"


def answer(config: CalibrateConfig) -> Answer:
    """Raises TargetError for a target that no noise reaches, and for numbers so extreme that the
    accountant's arithmetic ends.
    """
    try:
        # What overflows is infinite, which the arithmetic or the answer says.
        with np.errstate(all="ignore"):
            return _answer(config)
    except (ArithmeticError, ValueError, MemoryError) as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(
            f"no bound can be computed for numbers so extreme ({first_line(error)}); use others"
        ) from None


def _answer(config: CalibrateConfig) -> Answer:
    sampling = Sampling(config.sampling)
    neighbouring = (
        Neighbouring.ADD_REMOVE if sampling == Sampling.POISSON else Neighbouring.ZERO_OUT
    )
    q, delta = config.rate, config.delta
    start = Mechanism(
        sampling,
        q.numerator,
        q.denominator,
        config.planned_steps,
        config.noise_multiplier or 0.0,
        1.0,
        q.numerator,
        neighbouring,
    )
    ran = start if config.noise_multiplier else _calibrated(config, start)
    with ThreadPoolExecutor(1) as beside:
        prv = (
            beside.submit(prv_epsilon, ran, delta, config.prv_seconds)
            if config.prv_seconds
            else None
        )
        bound, curve = pld.accounted(ran), pld.trade_off(ran)
        step = (float(bound.sample_rate), bound.noise_multiplier, bound.steps, delta)
        amplified = (
            ""
            if sampling == Sampling.POISSON
            else "; shuffled batches: no amplification by sampling"
        )
        columns: dict[str, tuple[float | None, str]] = {
            "noise_multiplier": (ran.noise_multiplier, "standard deviation of the noise / clip"),
            "sample_rate": (
                float(q),
                f"q = {q}, {config.sampling} sampling, neighbours {neighbouring}",
            ),
            "steps": (ran.steps, "T"),
            "delta": (
                delta,
                f"delta x n = {delta * config.n:.3g}" if config.n else "should lie well below 1/n",
            ),
            "epsilon": (
                pld.epsilon(ran, delta),
                f"upper bound at delta, by {pld.method(ran)}{amplified}",
            ),
            "epsilon_rdp": (
                rdp.improved(*step),
                "RDP, conversion of Canonne et al. 2020, as Opacus prints now",
            ),
            "epsilon_rdp_classic": (
                rdp.classic(*step),
                "RDP, conversion of Mironov 2017, as papers up to 2020 print",
            ),
            "epsilon_without_amplification": (
                pld.unamplified_epsilon(ran, delta),
                "if the attacker knows every batch",
            ),
            "epsilon_group_2": (pld.group_epsilon(ran, delta, 2), "for a person with 2 examples"),
            "epsilon_group_8": (pld.group_epsilon(ran, delta, 8), "for a person with 8 examples"),
            **_chosen(config, ran),
            "mu": (pld.gaussian_mu(ran, delta), "mu-GDP at every delta from this one up"),
            "max_tpr_at_fpr_0.001": (curve.max_tpr(0.001), "ceiling of any attack on one example"),
            "max_tpr_at_fpr_0.01": (curve.max_tpr(0.01), "ceiling"),
            "max_advantage": (curve.max_advantage, "ceiling of TPR - FPR"),
            "max_auc": (curve.max_auc, "ceiling"),
        }
        if config.max_tpr is not None:
            columns[f"max_tpr_at_fpr_{config.at_fpr:g}"] = (
                curve.max_tpr(config.at_fpr),
                "ceiling, the target",
            )
        if prv is not None:
            columns["epsilon_prv"] = (
                prv.result(),
                f"Opacus's PRV, within {config.prv_seconds:g} s; - where it gives no usable number",
            )
    values = {
        name: value if value is not None and math.isfinite(value) else None
        for name, (value, _) in columns.items()
    }
    return Answer(values, {name: meaning for name, (_, meaning) in columns.items()})


def _chosen(config: CalibrateConfig, ran: Mechanism) -> dict[str, tuple[float | None, str]]:
    """What training a random number of times and choosing costs, where that is asked for."""
    if config.trials is None:
        return {}
    law = f"{config.trials_law} law of mean {config.trials:g}"
    meaning = f"of the best of a random number of trials ({law}); all else is of one model"
    given = ([ran], config.delta, Trials(config.trials, SHAPES[config.trials_law]))
    profile, renyi = selection.by_profile(*given), selection.by_renyi(*given)
    return {
        "epsilon_chosen": (min(profile, renyi), meaning),
        "epsilon_chosen_profile": (profile, "the same, by privacy profiles (Koskela et al. 2024)"),
        "epsilon_chosen_rdp": (renyi, "the same, by RDP (Papernot and Steinke 2022)"),
    }


def _epsilon(config: CalibrateConfig, ran: Mechanism) -> float:
    """What the target epsilon is of: of a model by itself, or of one that is chosen."""
    if config.trials is None:
        return pld.epsilon(ran, config.delta)
    trials = Trials(config.trials, SHAPES[config.trials_law])
    return selection.epsilon([ran], config.delta, trials)


def _calibrated(config: CalibrateConfig, start: Mechanism) -> Mechanism:
    targets: dict[str, tuple[float | None, Callable[[Mechanism], float]]] = {
        "epsilon": (config.epsilon, lambda ran: _epsilon(config, ran)),
        "max_advantage": (config.max_advantage, lambda ran: pld.trade_off(ran).max_advantage),
        "max_tpr": (config.max_tpr, lambda ran: pld.trade_off(ran).max_tpr(config.at_fpr)),
    }
    name, target, risk = next(
        (name, target, risk) for name, (target, risk) in targets.items() if target is not None
    )
    try:
        return pld.least_noise(start, risk, target, f"{name} {target:g}")
    except ValueError as error:
        raise TargetError(f"{error}; ask for more, or for fewer steps", name) from None
