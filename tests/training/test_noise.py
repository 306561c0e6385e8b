"""The noise is what the accountant was told. Statistical tests: false-alarm rate 1e-6 each,
seeded.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dptrain.core import streams
from dptrain.core.streams import seeded_key
from dptrain.core.types import Clipping, EngineKind, Mechanism, Precision, Sampling, Setting
from dptrain.privacy import pld
from dptrain.training import noise
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.noise import DeviceNoise, GaussianNoise
from dptrain.training.state import State
from tests.runs import make_recipe, train


def lattice_phases(values, beyond=4.6):
    """Noise [P] -> the place of each pair's radius between two points of the lattice of 32-bit
    Box-Muller, in the tail where float32 shows it.
    """
    half = (len(values) + 1) // 2
    square = np.square(values[:half]) + np.square(np.resize(values[half:], half))
    radius = np.sqrt(square)
    kept = (radius > beyond) & (radius < beyond + 1)
    return 2.0**31 * np.exp(-square[kept] / 2) % 1


def alarms(values, level=1e-4):
    """Whether the phases of some noise lie too close together (Rayleigh's test)."""
    phases = lattice_phases(values)
    return (
        bool(len(phases) * np.abs(np.exp(2j * np.pi * phases).mean()) ** 2 > -math.log(level))
        if len(phases)
        else False
    )


def one_step(member, seed):
    """Noise that an attacker finds in one released model, if the target was in it and if not: [2,
    10^6]; T = 1, q = 1, epsilon .5.
    """
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(size=(2, 1000)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 1000, 2))
    model = nn.Linear(1000, 1000, bias=False)
    nn.init.zeros_(model.weight)
    mechanism = pld.calibrate(Mechanism(Sampling.POISSON, 2, 2, 1, 0.0, 1.0, 2), 0.5, 1e-5)
    setting = Setting("s", "dpsgd", 0.5, 1e-5, mechanism, make_recipe(1.0))
    state = State.start([model])
    train(
        model,
        setting,
        "stacked",
        state,
        [streams.seeded_key(seed, "lattice")],
        inputs,
        labels,
        np.array([[True, member]]),
        lambda *_: None,
    )
    noisy = -state.parameters["weight"][0].double().flatten() * mechanism.divisor
    found = []
    for inside in (True, False):
        out = {"weight": torch.zeros(1, 1000, 1000)}
        weights = torch.tensor([[True, inside]])
        step = ENGINES[EngineKind.STACKED](model, Precision.FLOAT32)
        step(
            stack([model]),
            inputs[None, :, None],
            labels[None],
            weights,
            Clipper.of(Clipping.FLAT, 1.0),
            out,
        )
        found.append(
            (
                (noisy - out["weight"].double().flatten())
                / (mechanism.noise_multiplier * mechanism.clip)
            ).numpy()
        )
    return found


def test_the_last_digits_of_noise_tell_nothing():
    """Before, the attack named 20 of 20 members and no other."""
    named = {True: 0, False: 0}
    for trial in range(100):
        member = trial % 2 == 0
        if_in, if_out = one_step(member, trial)
        named[member] += alarms(if_in) and not alarms(if_out)
    assert named == {True: 0, False: 0}


def test_the_tail_has_no_gaps():
    """Radii beyond 5.4 come from 64 more bits: no two are alike, and they lie between the points of
    the 32-bit lattice.
    """
    source = GaussianNoise(1, 2_000_000)
    phases = np.concatenate(
        [
            lattice_phases(
                source.draw([streams.seeded_key(0, "tail")], step)[0].double().numpy(), 5.45
            )
            for step in range(100)
        ]
    )
    assert len(phases) > 20
    assert stats.kstest(phases, "uniform").pvalue > 1e-6


KEYS = [seeded_key(k, "noise") for k in range(4)]


def draws(steps, size=5000, seed=0):
    keys = [seeded_key(4 * seed + k, "noise") for k in range(4)]
    noise = GaussianNoise(len(keys), size)
    return np.stack([noise.draw(keys, step).numpy().copy() for step in range(steps)])


def test_standard_normal(seed):
    # A million: an error of 1 % in sigma is 14 standard errors.
    x = draws(50, seed=seed).ravel().astype(np.float64)
    assert abs(x.mean()) < 4.89 / math.sqrt(x.size)
    assert abs(x.std() - 1) < 4.89 / math.sqrt(2 * x.size)
    assert abs(np.mean(x**4) - 3) < 4.89 * math.sqrt(96 / x.size)
    assert stats.kstest(x, "norm").pvalue > 1e-6
    assert 4.2 < np.abs(x).max() < 6.7


def test_tails(seed):
    x = np.abs(draws(100, seed=seed)).ravel()
    for limit in (3.0, 4.0):
        expected = x.size * 2 * stats.norm.sf(limit)
        assert abs((x > limit).sum() - expected) < 4.89 * math.sqrt(expected) + 5


def test_models_steps_and_halves_are_independent(seed):
    x = draws(3, seed=seed).astype(np.float64)
    rows = x.reshape(12, -1)
    # The two halves of a row share their radius.
    rows = np.concatenate([rows[:, :2500], rows[:, 2500:]])
    correlation = np.corrcoef(rows)[np.triu_indices(24, 1)]
    assert np.abs(correlation).max() * math.sqrt(2500) < 6


@pytest.mark.parametrize(
    "device", [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.cuda)]
)
def test_another_device_makes_the_same_noise(device, monkeypatch):
    """The same bits by the same formulas, and the same pairs of the tail drawn again; two steps,
    since the second fills memory that the first was sent from.
    """
    monkeypatch.setattr(noise, "TAIL", 1 << 22)  # a thousandth of all
    monkeypatch.setattr(noise, "FAR", math.sqrt(-2 * math.log((1 << 22) * 2.0**-31)))
    size = 100_001
    here, there = GaussianNoise(2, size), DeviceNoise(2, size, device)
    for step in (5, 6):
        expected, drawn = here.draw(KEYS[:2], step), there.draw(KEYS[:2], step).cpu()
        assert drawn.shape == expected.shape
        torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=2e-6)
        far = torch.from_numpy(np.abs(here._bits[:, 0].astype(np.int64)) < (1 << 22) - 1000)
        far = torch.cat([far, far], dim=1)[:, :size]
        assert far.sum() > 100
        # Of 64 bits and rounded once; elsewhere the last digits differ.
        assert torch.equal(drawn[far], expected[far])


@pytest.mark.parametrize("size", [1, 2, 5, 101])
def test_any_size_and_stack_width_gives_the_same_rows(size):
    together = GaussianNoise(4, size).draw(KEYS, 7).clone()
    assert together.shape == (4, size)
    for k, key in enumerate(KEYS):
        alone = GaussianNoise(1, size).draw([key], 7)
        assert (alone[0] == together[k]).all()
