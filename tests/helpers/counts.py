"""Confusion matrices drawn at random."""

import numpy as np

DELTA = 1e-5


FIXTURES = 200


def counts(seed):
    rng = np.random.default_rng(seed)
    n_in, n_out = rng.integers(5, 60, 2)
    tp, fp = rng.binomial(n_in, rng.random()), rng.binomial(n_out, rng.random() ** 2)
    if seed % 10 == 0:
        tp, fp = n_in, 0
    delta = [1e-5, 1e-2, 1e-9][seed % 3]
    return int(tp), int(n_in - tp), int(fp), int(n_out - fp), delta


EPSILONS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
