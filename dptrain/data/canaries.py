"""CANARIES: examples made to be remembered, so that the worst case is measured beside the average
(Aerni et al. 2024).

They take the places of pool examples, so a fair coin says which models they are in, as of any other
example, and n stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Shaped

Pair = tuple[np.ndarray, np.ndarray]
"""inputs float32 [K, *shape], labels int64 [K]"""


def _mislabelled(
    inputs: Shaped[np.ndarray, "k ..."],
    labels: Int[np.ndarray, " k"],
    classes: int,
    rng: np.random.Generator,
) -> Pair:
    return inputs, (labels + rng.integers(1, classes, len(labels))) % classes


def _blank(
    inputs: Shaped[np.ndarray, "k ..."],
    labels: Int[np.ndarray, " k"],
    classes: int,
    rng: np.random.Generator,
) -> Pair:
    return np.zeros_like(inputs), rng.integers(0, classes, len(labels))


def _noise(
    inputs: Shaped[np.ndarray, "k ..."],
    labels: Int[np.ndarray, " k"],
    classes: int,
    rng: np.random.Generator,
) -> Pair:
    return rng.normal(size=inputs.shape).astype(np.float32), rng.integers(0, classes, len(labels))


def _gradient(
    inputs: Shaped[np.ndarray, "k ..."],
    labels: Int[np.ndarray, " k"],
    classes: int,
    rng: np.random.Generator,
) -> Pair:
    flat = np.zeros((len(inputs), inputs[0].size), dtype=np.float32)
    features = np.resize(rng.permutation(flat.shape[1]), len(flat))
    flat[np.arange(len(flat)), features] = np.sqrt(flat.shape[1]) * rng.choice([-1, 1], len(flat))
    return flat.reshape(inputs.shape), rng.integers(0, classes, len(labels))


CANARIES: dict[str, Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Pair]] = {
    "mislabelled": _mislabelled,
    "blank": _blank,
    "noise": _noise,
    "gradient": _gradient,
}
"""mislabelled: a wrong label; blank: zeros; noise: standard normal, out of distribution; gradient:
zeros but for one feature, of the size of a whole input, so that a dense first layer's gradient lies
in directions that hardly any other example uses (a Dirac canary, Nasr et al. 2023, crafted in the
input). All but the first carry random labels.
"""
