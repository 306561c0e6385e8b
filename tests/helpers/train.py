"""A small plan and its data, and the loop run on it."""

import torch

from dptrain import models
from dptrain.core import streams
from dptrain.core.types import Mechanism, Sampling, Setting
from dptrain.training.state import State
from tests.runs import make_recipe, train

SHAPE, N = (3, 4), 40


def plan(steps=6, sigma=1.0, clip=1.0, batch=10, momentum=0.0, rate=0.1, **recipe):
    mechanism = Mechanism(Sampling.POISSON, batch, N // 2, steps, sigma, clip, batch)
    return Setting("s", "dpsgd", 1.0, 1e-5, mechanism, make_recipe(rate, momentum, **recipe))


def examples():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(N, *SHAPE, generator=generator), torch.randint(
        0, 3, (N,), generator=generator
    )


def fleet(count):
    return [models.build("mlp", {"hidden": [6]}, SHAPE, 3, seed) for seed in range(count)]


KEYS = [streams.seeded_key(k, "train") for k in range(8)]


MEMBERSHIP = streams.memberships(8, N, streams.seeded_key(0, "membership"))


def run_loop(
    setting,
    indices,
    engine="stacked",
    state=None,
    on_step=lambda *_: None,
    physical=None,
    shape=SHAPE,
):
    stack = fleet(8)
    state = state or State.start([stack[k] for k in indices])
    inputs, labels = examples()
    inputs = inputs.view(N, *shape)
    ran = train(
        stack[0],
        setting,
        engine,
        state,
        [KEYS[k] for k in indices],
        inputs,
        labels,
        MEMBERSHIP[indices],
        on_step,
        physical,
    )
    return state, ran
