"""The one loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.core import streams
from dptrain.core.types import Mechanism, Precision, Sampling, Setting
from dptrain.training import augmentation
from dptrain.training.gradients.base import stack
from dptrain.training.noise import GaussianNoise
from dptrain.training.state import State
from tests import reference
from tests.helpers.train import KEYS, MEMBERSHIP, N, examples, fleet, plan, run_loop
from tests.runs import make_recipe, train


def test_released_steps_are_multiples_of_a_grid():
    model = nn.Linear(30, 10)
    mechanism = Mechanism(Sampling.POISSON, 4, 4, 1, 3.0, 0.7, 4)
    assert 2.1 / 32 < mechanism.spacing <= 2.1 / 16
    setting = Setting("s", "dpsgd", 1.0, 1e-5, mechanism, make_recipe(1.0))
    state, before = State.start([model]), stack([model])
    inputs, labels = torch.randn(4, 30), torch.arange(4)
    train(
        model,
        setting,
        "stacked",
        state,
        [streams.os_key()],
        inputs,
        labels,
        np.ones((1, 4), bool),
        lambda *_: None,
    )
    steps = (before["weight"] - state.parameters["weight"]).double() * 4 / mechanism.spacing
    # But for the rounding of the difference itself.
    assert float((steps - steps.round()).abs().max()) < 0.01
    assert float(steps.abs().max()) > 20


RECIPES = [
    {},
    {"momentum": 0.9},
    {"optimiser": "adamw", "weight_decay": 0.01, "rate": 0.01},
    {"average": 0.9, "schedule": "cosine", "warmup": 0.3},
    {
        "momentum": 0.5,
        "average": 0.5,
        "augmentations": ("flip",),
        "multiplicity": 3,
        "clipping": "automatic",
    },
]


IMAGE = (1, 3, 4)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("widths", [[1] * 8, [2] * 4, [7, 1], [8]])
def test_any_stack_width_gives_the_same_parameters(widths, recipe):
    setting = plan(**recipe)
    together, _ = run_loop(setting, list(range(8)), shape=IMAGE)
    start = 0
    for width in widths:
        part, _ = run_loop(setting, list(range(start, start + width)), shape=IMAGE)
        for name, value in part.parameters.items():
            torch.testing.assert_close(
                value, together.parameters[name][start : start + width], rtol=1e-5, atol=1e-6
            )
        start += width


def test_engines_agree_over_a_whole_run():
    stacked, ran = run_loop(plan(momentum=0.5), [0, 1, 2])
    opacus, also = run_loop(plan(momentum=0.5), [0, 1, 2], engine="opacus")
    assert ran == also == plan().mechanism
    for name, value in stacked.parameters.items():
        torch.testing.assert_close(value, opacus.parameters[name], rtol=1e-4, atol=1e-5)


def test_plain_sgd_is_the_loop_without_clip_and_noise():
    """At sample rate 1 every batch is the members, and torch.optim does the rest."""
    setting = plan(steps=5, sigma=0.0, clip=math.inf, batch=N // 2, momentum=0.9, rate=0.05)
    state, _ = run_loop(setting, [3])
    model, (inputs, labels) = fleet(8)[3], examples()
    members = torch.from_numpy(np.flatnonzero(MEMBERSHIP[3]))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(5):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(
            model(inputs[members]), labels[members], reduction="sum"
        ) / (N // 2)
        loss.backward()
        optimiser.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(state.parameters[name][0], value.detach(), rtol=1e-5, atol=1e-6)


class Stop(Exception):
    pass


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stops", [[1], [3], [5], [1, 2, 4]])
def test_resume_equals_uninterrupted_bit_for_bit(stops, recipe):
    setting = plan(**recipe)
    whole, _ = run_loop(setting, [0, 1, 2], shape=IMAGE)
    state = None
    for at in stops:

        def stop(current, *_, at=at):
            if current.step == at:
                raise Stop

        state = state or State.start([fleet(8)[k] for k in (0, 1, 2)])
        with pytest.raises(Stop):
            run_loop(setting, [0, 1, 2], state=state, on_step=stop, shape=IMAGE)
        state = State.of(
            {name: value.clone() for name, value in state.tensors().items()}, state.step
        )
    resumed, ran = run_loop(setting, [0, 1, 2], state=state, shape=IMAGE)
    assert ran.steps == 6
    assert resumed.tensors().keys() == whole.tensors().keys()
    assert all(
        torch.equal(value, whole.tensors()[name]) for name, value in resumed.tensors().items()
    )


@pytest.mark.parametrize("sigma", [0.5, 4.0])
def test_zero_gradients_leave_noise_of_the_stated_size(sigma, seed):
    """Constant inputs of zero and a loss that ignores the parameters: what is left is noise of std
    rate * sigma * C / B a step. Two-sided, false-alarm rate 1e-6: |std error| < 4.89 / sqrt(2 n).
    """
    clip, batch, steps, rate = 0.3, 10, 20, 0.7

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1000, 100)

        def forward(self, x):
            return self.layer(x)[:, :3] * 0

    mechanism = Mechanism(Sampling.POISSON, batch, 20, steps, sigma, clip, batch)
    setting = Setting("s", "dpsgd", 1.0, 1e-5, mechanism, make_recipe(rate))
    model = Flat()
    state = State.start([model, model])
    before = {name: value.clone() for name, value in state.parameters.items()}
    inputs, labels = torch.randn(N, 1000), torch.zeros(N, dtype=torch.int64)
    keys = [streams.seeded_key(k, "zero", str(seed)) for k in range(2)]
    train(model, setting, "stacked", state, keys, inputs, labels, MEMBERSHIP[:2], lambda *_: None)
    moved = torch.cat(
        [(state.parameters[name] - before[name]).flatten() for name in before]
    ).double()
    expected = rate * sigma * clip / batch * math.sqrt(steps)
    n = moved.numel()
    assert n == 2 * 100_100
    assert abs(float(moved.std()) / expected - 1) < 4.89 / math.sqrt(2 * n)
    assert abs(float(moved.mean())) < 4.89 * expected / math.sqrt(n)


@pytest.mark.parametrize("physical", [None, 3])
def test_every_step_is_the_clipped_sum_plus_its_own_noise_over_the_divisor(physical, seed):
    """Abadi et al. 2016, algorithm 1, spelled out: micro-batches of one, the keystream's noise of
    that step, one division by a constant.
    """
    clip, sigma, rate, steps, divisor = 0.3, 1.7, 0.2, 5, 7
    mechanism = Mechanism(Sampling.POISSON, 10, N // 2, steps, sigma, clip, divisor)
    setting = Setting("s", "dpsgd", 1.0, 1e-5, mechanism, make_recipe(rate))
    keys = [streams.seeded_key(k, "spelled out", str(seed)) for k in range(2)]
    inputs, labels = examples()
    expected = [fleet(8)[k] for k in range(2)]
    size = sum(parameter.numel() for parameter in expected[0].parameters())
    seen = []

    def note(state, losses, weights):
        for k, model in enumerate(expected):
            batch = streams.poisson(keys[k], state.step - 1, MEMBERSHIP[k], 10, N // 2)
            clipped = reference.clipped_sum(
                model, inputs[batch].unsqueeze(1), labels[batch], np.ones(len(batch)), clip
            )
            normals = (
                GaussianNoise(1, size)
                .draw(keys[k : k + 1], state.step - 1)[0]
                .split([p.numel() for p in model.parameters()])
            )
            with torch.no_grad():
                for (name, parameter), own in zip(model.named_parameters(), normals, strict=True):
                    parameter -= (
                        rate * (clipped[name] + sigma * clip * own.view_as(parameter)) / divisor
                    )
            for name, parameter in model.named_parameters():
                # The sum is rounded to the grid, so each step may lie half of its spacing away.
                away = state.step * 0.51 * rate * mechanism.spacing / divisor
                torch.testing.assert_close(
                    state.parameters[name][k], parameter.detach(), rtol=1e-4, atol=away
                )
        seen.append(state.step)

    state = State.start(fleet(8)[:2])
    train(
        fleet(8)[0], setting, "stacked", state, keys, inputs, labels, MEMBERSHIP[:2], note, physical
    )
    assert seen == [1, 2, 3, 4, 5]


def test_other_samplings_are_not_trained():
    shuffled = plan()
    shuffled = replace(shuffled, mechanism=replace(shuffled.mechanism, sampling=Sampling.SHUFFLED))
    with pytest.raises(ValueError, match="Poisson"):
        run_loop(shuffled, [0])


def test_empty_batches_are_steps_of_noise_alone():
    setting = plan(steps=30, batch=1)
    empty = [
        step
        for step in range(30)
        if len(streams.poisson(KEYS[0], step, MEMBERSHIP[0], 1, N // 2)) == 0
    ]
    assert empty
    seen = []

    def note(state, losses, weights):
        seen.append(
            (int(weights.sum()), {name: value.clone() for name, value in state.parameters.items()})
        )

    _, ran = run_loop(setting, [0], on_step=note)
    assert ran.steps == len(seen) == 30
    for step in empty:
        assert seen[step][0] == 0
        if step:
            moved = torch.cat(
                [
                    (seen[step][1][name] - seen[step - 1][1][name]).flatten()
                    for name in seen[step][1]
                ]
            )
            assert (
                0.5 < float(moved.std()) / (setting.recipe.optimiser.learning_rate * 1.0 / 1) < 1.5
            )


@pytest.mark.parametrize("engine", ["stacked", "opacus"])
@pytest.mark.parametrize("physical", [1, 3, 7])
def test_a_batch_in_parts_is_the_same_step(engine, physical):
    """Accumulation happens before the noise, once, so neither the sum nor its sensitivity depends
    on the parts.
    """
    setting = plan(momentum=0.5)
    whole, ran = run_loop(setting, [0, 1])
    parts, also = run_loop(setting, [0, 1], engine, physical=physical)
    assert ran == also
    for name, value in parts.parameters.items():
        torch.testing.assert_close(value, whole.parameters[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["stacked", "opacus"])
def test_identical_views_are_one_view(engine):
    single, _ = run_loop(plan(), [0, 1], engine)
    many, _ = run_loop(plan(multiplicity=5), [0, 1], engine)
    for name, value in many.parameters.items():
        torch.testing.assert_close(value, single.parameters[name], rtol=1e-5, atol=1e-6)


def test_views_are_averaged_before_clipping():
    """One step from zero noise: the sum over examples of clip(mean over views of gradients), by
    plain autograd.
    """
    setting = plan(
        steps=1,
        sigma=0.0,
        clip=0.3,
        batch=N // 2,
        rate=1.0,
        augmentations=("flip",),
        multiplicity=4,
    )
    state, _ = run_loop(setting, [2], shape=IMAGE)
    members = np.flatnonzero(MEMBERSHIP[2])
    inputs, labels = examples()
    draws = augmentation.draw(KEYS[2:3], 0, [len(members)], 4)
    views = augmentation.augment(("flip",), inputs.view(N, *IMAGE)[members][None], draws)[0]
    model = fleet(8)[2]
    expected = reference.clipped_sum(model, views, labels[members], np.ones(len(members)), 0.3)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            state.parameters[name][0],
            parameter.detach() - expected[name] / (N // 2),
            rtol=1e-5,
            atol=1e-6,
        )


def test_bfloat16_changes_digits_only():
    full, _ = run_loop(plan(sigma=0.0), [0, 1])
    half, _ = run_loop(plan(sigma=0.0, precision=Precision.BFLOAT16), [0, 1])
    for name, value in half.parameters.items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, full.parameters[name])
        torch.testing.assert_close(value, full.parameters[name], rtol=0.1, atol=0.02)
