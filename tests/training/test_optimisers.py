"""Tests of training.optimisers."""

import itertools
from dataclasses import replace

import pytest
import torch

from dptrain.training.optimisers import rate
from dptrain.training.state import State
from tests.helpers.train import fleet, plan, run_loop
from tests.runs import make_recipe


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_adamw_takes_torchs_own_steps(sigma):
    """The gradients that the loop hands over, given to torch.optim.AdamW model by model."""
    setting = plan(steps=5, sigma=sigma, optimiser="adamw", weight_decay=0.1, rate=0.02)
    seen = []
    sgd = plan(steps=1, sigma=sigma, rate=1.0)
    run_loop(
        setting,
        [0, 1],
        on_step=lambda current, *_: seen.append(
            {n: v.clone() for n, v in current.parameters.items()}
        ),
    )
    model = fleet(8)[1]
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    for step in range(5):
        before = {name: value.detach().clone()[None] for name, value in model.named_parameters()}
        at = State({name: value.clone() for name, value in before.items()}, step=step)
        once = replace(sgd, mechanism=replace(sgd.mechanism, steps=step + 1))
        run_loop(once, [1], state=at)
        for name, parameter in model.named_parameters():
            parameter.grad = (before[name] - at.parameters[name])[0]
        optimiser.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                seen[step][name][1], parameter.detach(), rtol=1e-4, atol=1e-5
            )


def test_schedules():
    def rates(**recipe):
        return [rate(make_recipe(2.0, **recipe).optimiser, step, 10) for step in range(10)]

    assert rates() == [2.0] * 10
    assert rates(schedule="linear")[0::9] == pytest.approx([2.0, 0.2])
    assert rates(schedule="cosine")[0::5] == pytest.approx([2.0, 1.0])
    assert rates(warmup=0.4)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert all(later <= sooner for sooner, later in itertools.pairwise(rates(schedule="cosine")))
