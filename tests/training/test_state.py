"""Tests of training.state."""

import math

import torch

from dptrain.training.state import State, keep_best
from tests.helpers.stacks import MODELS
from tests.helpers.train import fleet, plan, run_loop


def test_the_best_iterate_is_kept():
    state = State.start(MODELS[:2])
    history = []
    for losses in ([3.0, 1.0], [2.0, 2.0], [4.0, math.nan], [1.0, 0.5]):
        for value in state.parameters.values():
            value.add_(1.0)
        history.append({name: value.clone() for name, value in state.parameters.items()})
        keep_best(state, torch.tensor(losses))
        best = [0, 0] if len(history) == 1 else [1, 0] if len(history) < 4 else [3, 3]
        for name, value in state.released.items():
            for k in range(2):
                assert torch.equal(value[k], history[best[k]][name][k])
    assert torch.equal(State.of(state.tensors(), 1).best["loss"], torch.tensor([1.0, 0.5]))


def test_the_order_of_names_in_a_state_does_not_matter():
    """Files give names back in any order; noise must still land on the same parameters."""
    whole, _ = run_loop(plan(momentum=0.9), [0, 1])
    start = State.start([fleet(8)[0], fleet(8)[1]])
    shuffled = State(dict(reversed(start.parameters.items())))
    run_loop(plan(momentum=0.9), [0, 1], state=shuffled)
    assert all(
        torch.equal(value, whole.parameters[name]) for name, value in shuffled.parameters.items()
    )


def test_the_average_is_released():
    seen = []
    state, _ = run_loop(
        plan(average=0.5),
        [0],
        on_step=lambda current, *_: seen.append(current.parameters["1.weight"].clone()),
    )
    expected = seen[0]
    for step, value in enumerate(seen[1:], 2):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(state.released["1.weight"], expected)
    assert not torch.equal(state.parameters["1.weight"], expected)
    plain, _ = run_loop(plan(), [0])
    assert plain.released is plain.parameters
