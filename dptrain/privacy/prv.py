"""A second opinion on an epsilon: Opacus's PRV accountant, in a process of its own with limits on
time and memory.

It returns infinity, a negative number or nothing for an hour at times (Opacus issues 601, 604,
606): those are no opinion.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import resource
import subprocess
import sys
import types
import warnings

from dptrain.core.types import Mechanism

SECONDS = 60.0
MEMORY = 8 << 30


def prv_epsilon(mechanism: Mechanism, delta: float, seconds: float = SECONDS) -> float | None:
    """Opacus's PRV epsilon, within .01 above the truth; None where it gives no usable number in
    time. Raises UnsupportedMechanism.
    """
    # Here, since the child process, which imports this file too, has no need of it.
    from dptrain.privacy.pld import accounted

    ran = accounted(mechanism)
    question = [ran.noise_multiplier, float(ran.sample_rate), ran.steps, delta]
    try:  # -P: not to run a json.py or an opacus.py of the working folder
        child = subprocess.run(
            [sys.executable, "-P", "-m", "dptrain.privacy.prv", json.dumps(question)],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
        value = float(child.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _answer(sigma: float, q: float, steps: int, delta: float) -> float:
    with contextlib.suppress(OSError, ValueError):  # a system without such limits
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # The accountants are NumPy; the packages around them import torch, which takes longer than most
    # answers.
    specification = importlib.util.find_spec("opacus")
    assert specification is not None
    outer, optimisers = types.ModuleType("opacus"), types.ModuleType("opacus.optimizers")
    outer.__path__ = list(specification.submodule_search_locations or [])
    vars(optimisers)["DPOptimizer"] = object  # named in annotations only
    sys.modules |= {"opacus": outer, "opacus.optimizers": optimisers}
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, q, steps)]
    warnings.simplefilter("ignore")  # of a loose order or a coarse grid: this number is no claim
    return float(accountant.get_epsilon(delta=delta))


if __name__ == "__main__":
    print(repr(_answer(*json.loads(sys.argv[1]))))
