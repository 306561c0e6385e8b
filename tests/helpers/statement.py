"""Settings and circumstances that statements speak of."""

from dataclasses import replace

from dptrain.core.store import versions
from dptrain.core.types import Mechanism, NoiseSource, Sampling, Setting
from dptrain.privacy import pld
from dptrain.privacy.statement import Circumstances
from tests.runs import make_recipe

OS = Circumstances(noise=NoiseSource.OS, preprocessing="nothing fitted", versions=versions())
SEEDED = replace(OS, noise=NoiseSource.SEEDED)


def setting(epsilon):
    start = Mechanism(Sampling.POISSON, 50, 500, 40, 0.0, 1.0, 50)
    return Setting(
        "s", "dpsgd", epsilon, 1e-5, pld.calibrate(start, epsilon, 1e-5), make_recipe(0.1)
    )
