"""User-level DP-SGD: users are drawn by coins, each one's mean gradient is clipped as one, and no
user moves a sum by more than the clip, however many rows are theirs.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core import streams
from dptrain.core.streams import Purpose, Users
from dptrain.core.types import (
    Clipping,
    EngineKind,
    Mechanism,
    Precision,
    Sampling,
    Setting,
    Unit,
)
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train
from tests.runs import make_recipe

SHAPE, CLASSES, USERS = (3, 4), 3, 24


def rows_of_users(seed=0):
    """Whose each example is: one to nine rows, out of order."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(USERS), rng.integers(1, 10, USERS))
    return rng.permutation(units)


def mechanism(sigma, steps=4, batch=6, clip=0.5):
    return Mechanism(Sampling.POISSON, batch, USERS // 2, steps, sigma, clip, batch, unit=Unit.USER)


def data_of(units, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(units), *SHAPE, generator=generator)
    return inputs, torch.randint(0, CLASSES, (len(units),), generator=generator)


def test_a_user_s_rows_are_drawn_without_repeats_and_share_alike():
    units = rows_of_users()
    users = Users.of(units)
    key = streams.seeded_key(0, "users")
    seen = np.zeros(len(units))
    for step in range(400):
        places, shares = users.draw(key, step, np.arange(USERS), 4)
        for user in range(USERS):
            there = places[user][shares[user] > 0]
            assert (units[places[user]] == user).all()
            assert len(set(there)) == len(there) == min(4, (units == user).sum())
            assert shares[user].sum() == pytest.approx(1)
        seen += np.bincount(places[shares > 0], minlength=len(units))
    # Each of a user's r rows is in with probability min(1, 4 / r), within six standard errors.
    counts = np.bincount(units)[units]
    rate = np.minimum(1, 4 / counts)
    assert (abs(seen / 400 - rate) <= 6 * np.sqrt(rate * (1 - rate) / 400) + 1e-12).all()
    again = users.draw(key, 7, np.arange(USERS), 4)[0]
    assert (again == users.draw(key, 7, np.arange(USERS), 4)[0]).all()
    assert (again != users.draw(key, 8, np.arange(USERS), 4)[0]).any()


def slowly(model, units, data, member, key, setting):
    """The slow twin: a loop over users, plain autograd of each one's mean loss."""
    users, (inputs, labels) = Users.of(units), data
    ran, recipe = setting.mechanism, setting.recipe
    rate = recipe.optimiser.learning_rate
    for step in range(ran.steps):
        drawn = streams.poisson(key, step, member, ran.batch_size, ran.public_n)
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        padded = streams.pad([drawn])[0][0]
        places, shares = users.draw(key, step, padded, recipe.examples_per_user)
        for row in range(len(drawn)):
            theirs = places[row][shares[row] > 0]
            model.zero_grad()
            nn.functional.cross_entropy(model(inputs[theirs]), labels[theirs]).backward()
            norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
            factor = min(1.0, ran.clip / norm)
            for name, p in model.named_parameters():
                total[name] += factor * p.grad
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= rate * total[name] / ran.divisor


@pytest.mark.parametrize("engine", list(EngineKind))
def test_a_run_equals_the_loop_over_users(engine):
    """To 1e-5, without noise: every step's batch of users, their rows, means, clips and sums."""
    units = rows_of_users()
    inputs, labels = data_of(units)
    ran = mechanism(0.0)
    recipe = make_recipe(0.8, examples_per_user=4)
    setting = Setting("s", "dpsgd_user", 1.0, 1e-5, ran, recipe)
    count = 3 if engine == EngineKind.STACKED else 1
    keys = [streams.seeded_key(k, "twin") for k in range(count)]
    members = streams.memberships(4, USERS, streams.seeded_key(0, "m"))[:count]
    built = [models.build("mlp", {"hidden": [6]}, SHAPE, CLASSES, seed) for seed in range(count)]
    data = TrainingData(inputs, labels, members, users=Users.of(units))
    trainer = Trainer.of(built[0], setting, engine, keys, data)
    state, _ = train(trainer, State.start(built), lambda *_: None)
    for k, model in enumerate(built):
        slowly(model, units, (inputs, labels), members[k], keys[k], setting)
        for name, value in model.named_parameters():
            torch.testing.assert_close(state.parameters[name][k], value, rtol=1e-5, atol=1e-6)


def test_the_plan_and_the_data_speak_of_the_same_units():
    units = rows_of_users()
    inputs, labels = data_of(units)
    model = models.build("logistic", {}, SHAPE, CLASSES)
    keys = [streams.os_key()]
    everyone = np.ones((1, USERS), dtype=bool)
    setting = Setting("s", "dpsgd_user", 1.0, 1e-5, mechanism(1.0), make_recipe(0.1))
    with pytest.raises(ValueError, match="draws units of kind user"):
        Trainer.of(model, setting, EngineKind.STACKED, keys, TrainingData(inputs, labels, everyone))


PAIRS, WIDTH = 20_000, 1000


@pytest.mark.parametrize("kind", ["plain", "parallel", "huge", "not a number"])
def test_no_user_moves_a_sum_by_more_than_the_clip(kind):
    """20,000 pairs of neighbouring batches over all kinds: one user of 1 to 10,000 rows is there
    or not.
    """
    clip, most, batch = 0.3, 5, 4
    model = models.mlp((5,), CLASSES, (4,))
    engine = ENGINES[EngineKind.STACKED](model, Precision.FLOAT32)
    sizes = np.r_[1, 10_000, np.unique(np.logspace(0, 4, 60).astype(int))]
    units = np.repeat(np.arange(len(sizes)), sizes)
    users = Users.of(units)
    generator = torch.Generator().manual_seed(3)
    inputs = 3 * torch.randn(len(units), 5, generator=generator)
    labels = torch.randint(0, CLASSES, (len(units),), generator=generator)
    if kind == "parallel":
        inputs[:], labels[:] = inputs[0], labels[0]
    elif kind == "huge":
        inputs *= 10 ** torch.randint(0, 30, (len(units), 1), generator=generator).float()
    elif kind == "not a number":
        inputs[torch.rand(len(units), generator=generator) < 0.3, 0] = math.nan
    rng, worst = np.random.default_rng(4), 0.0
    stacked = stack([models.mlp((5,), CLASSES, (4,)) for _ in range(20)])
    parameters = {name: value[torch.arange(WIDTH) % 20] for name, value in stacked.items()}
    for chunk in range(PAIRS // 4 // WIDTH):
        drawn = rng.integers(0, len(sizes), (WIDTH, batch))
        theirs = [
            users.draw(streams.seeded_key(chunk, str(row)), 0, each, most)
            for row, each in enumerate(drawn)
        ]
        places, shares = (torch.from_numpy(np.stack(part)) for part in zip(*theirs, strict=True))
        weights = torch.ones(WIDTH, batch, dtype=torch.bool)
        sums = []
        for there in (True, False):
            weights[:, 0] = there
            out = {name: torch.zeros_like(value) for name, value in parameters.items()}
            engine(
                parameters,
                inputs[places],
                labels[places],
                weights,
                Clipper.of(Clipping.FLAT, clip),
                out,
                shares=shares,
            )
            sums.append(torch.cat([value.flatten(1) for value in out.values()], dim=1).double())
        worst = max(worst, float((sums[0] - sums[1]).norm(dim=1).max()))
    assert worst <= clip * (1 + 1e-5)
    assert worst > 0.99 * clip


def test_purposes_are_apart():
    """Which rows of a user are drawn says nothing of who is in the batch."""
    assert len(set(Purpose)) == len(list(Purpose))
    assert Purpose.ROWS != Purpose.BATCH
