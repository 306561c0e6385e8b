"""Papers that can be repeated without training: what noise buys under one accountant or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dp_accounting.pld import privacy_loss_distribution as pld_lib
from scipy.optimize import brentq

from dptrain.core.types import Mechanism, Sampling
from dptrain.papers.verdicts import Measured
from dptrain.privacy import pld, rdp


def classic_gaussian(epsilon: float, delta: float) -> float:
    """Noise multiplier of one Gaussian mechanism by the bound of Dwork and Roth 2014, theorem A.1:
    sqrt(2 log(1.25 / delta)) / epsilon.
    """
    return math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def naive(epsilon: float, delta: float, passes: int) -> float:
    """Noise by naive composition over the passes, without amplification by sampling."""
    return classic_gaussian(epsilon / passes, delta / passes)


def advanced(epsilon: float, delta: float, passes: int) -> float:
    """Noise by advanced composition as Jayaraman and Evans's code has it: epsilon = e sqrt(2 k
    log(2 / delta)) + k e^2, half of delta for the composition and half for its k parts.
    """

    def excess(part: float) -> float:
        spent = part * math.sqrt(2 * passes * math.log(2 / delta)) + passes * part**2
        return spent - epsilon

    part = float(brentq(excess, 0.0, epsilon + 1.0))
    return classic_gaussian(part, delta / (2 * passes))


def concentrated(epsilon: float, delta: float, passes: int) -> float:
    """Noise by zero-concentrated DP (Bun and Steinke 2016, proposition 1.3): epsilon = rho + 2
    sqrt(rho log(1 / delta)), rho = k / (2 sigma^2).
    """
    log = math.log(1 / delta)
    rho = (math.sqrt(epsilon + log) - math.sqrt(log)) ** 2
    return math.sqrt(passes / (2 * rho))


WITHOUT_AMPLIFICATION: dict[str, Callable[[float, float, int], float]] = {
    "NC": naive,
    "AC": advanced,
    "zCDP": concentrated,
}


def compositions(parameters: Mapping[str, Any]) -> dict[str, Measured]:
    """The least epsilon that is proved today of the noise which each composition of Jayaraman and
    Evans 2019 gives at a nominal epsilon.
    """
    n, batch, passes = (int(parameters[name]) for name in ("n", "batch_size", "epochs"))
    delta, steps = float(parameters["delta"]), math.ceil(passes * n / batch)
    proved = {}
    for nominal in map(float, parameters["nominal"]):
        noises = {
            name: noise(nominal, delta, passes) for name, noise in WITHOUT_AMPLIFICATION.items()
        }
        noises["RDP"] = moments(nominal, batch / n, steps, delta)
        for name, noise in noises.items():
            ran = Mechanism(Sampling.POISSON, batch, n, steps, noise, 1.0, batch)
            proved[f"{name} at {nominal:g}, today"] = Measured.exactly(pld.epsilon(ran, delta))
            proved[f"{name} at {nominal:g}, on a grid"] = Measured.exactly(
                on_grid(ran, delta, float(parameters["grid"]))
            )
    return proved


def on_grid(ran: Mechanism, delta: float, grid: float) -> float:
    """The same bound by dp-accounting itself, privacy losses rounded up to multiples of `grid`. A
    coarse one is safe, and says too much of tiny epsilons.
    """
    loss = pld_lib.from_gaussian_mechanism(
        ran.noise_multiplier,
        sampling_prob=float(ran.sample_rate),
        value_discretization_interval=grid,
        use_connect_dots=True,
    )
    return float(loss.self_compose(ran.steps).get_epsilon_for_delta(delta))


def moments(epsilon: float, rate: float, steps: int, delta: float) -> float:
    """Noise by Renyi DP of the sampled steps, converted as in 2017, as TensorFlow Privacy did."""

    def excess(log_noise: float) -> float:
        return math.log(rdp.classic(rate, math.exp(log_noise), steps, delta) / epsilon)

    return math.exp(float(brentq(excess, math.log(0.1), math.log(1e4), xtol=1e-6)))


def attack_risk(parameters: Mapping[str, Any]) -> dict[str, Measured]:
    """Kulynych et al. 2024: the noise that holds an advantage, by way of the epsilon that bounds it
    ("standard") and calibrated to the advantage itself ("direct"), and what TPR at 1 % FPR each
    allows.
    """
    delta, steps = float(parameters["delta"]), int(parameters["steps"])
    batch, n = int(parameters["batch_size"]), int(parameters["n"])
    start = Mechanism(Sampling.POISSON, batch, n, steps, 0.0, 1.0, batch)
    result = {}
    for advantage in map(float, parameters["advantages"]):
        # (e^epsilon - 1 + 2 delta) / (e^epsilon + 1), the advantage that (epsilon, delta) allows.
        epsilon = math.log((1 + advantage - 2 * delta) / (1 - advantage))
        standard = pld.calibrate(start, epsilon, delta)
        direct = pld.least_noise(
            start,
            lambda ran: pld.trade_off(ran).max_advantage,
            advantage,
            f"advantage {advantage:g}",
        )
        factor = standard.noise_multiplier / direct.noise_multiplier
        rates = [pld.trade_off(ran).max_tpr(0.01) for ran in (standard, direct)]
        result[f"noise saved at advantage {advantage:g}"] = Measured.exactly(factor)
        result[f"TPR at 1 % FPR, direct less standard, at {advantage:g}"] = Measured.exactly(
            rates[1] - rates[0]
        )
    return result
