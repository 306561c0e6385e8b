"""Tests of training.adversary."""

import torch
from torch.nn import functional

from dptrain.training import adversary
from tests.helpers.stacks import CLASSES, KEYS


def test_an_adversary_learns_and_is_learnt_against():
    """On predictions that tell members apart it finds them; a model's objective rises with what it
    finds.
    """
    attacker = adversary.start(KEYS[:2], CLASSES, torch.device("cpu"))
    labels = torch.randint(0, CLASSES, (2, 200))
    sure = 4.0 * functional.one_hot(labels, CLASSES)
    unsure = 0.5 * functional.one_hot(labels, CLASSES).float()
    weights = torch.ones(2, 200, dtype=torch.bool)
    for _ in range(300):
        adversary.learn(attacker, (sure, labels, weights), (unsure, labels))
    assert (adversary.odds(attacker, sure, labels) > 0).float().mean() > 0.95
    assert (adversary.odds(attacker, unsure, labels) < 0).float().mean() > 0.95


def test_adam_is_torchs():
    attacker = adversary.start(KEYS[:1], CLASSES, torch.device("cpu"))
    twin = [attacker[name].clone().requires_grad_() for name in ("first", "second")]
    optimiser = torch.optim.Adam(twin, lr=1e-3)
    labels = torch.randint(0, CLASSES, (1, 30))
    for _ in range(5):
        inside, outside = torch.randn(1, 30, CLASSES), torch.randn(1, 30, CLASSES)
        weights = torch.ones(1, 30, dtype=torch.bool)
        adversary.learn(attacker, (inside, labels, weights), (outside, labels))
        optimiser.zero_grad()
        layers = dict(zip(("first", "second"), twin, strict=True))
        members, others = (adversary.odds(layers, said, labels) for said in (inside, outside))
        (functional.softplus(-members).mean() + functional.softplus(others).mean()).backward()
        optimiser.step()
    for name, value in zip(("first", "second"), twin, strict=True):
        torch.testing.assert_close(attacker[name], value.detach(), rtol=1e-4, atol=1e-6)
