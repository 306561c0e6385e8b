"""What only the owner of a model can measure, against plain autograd, and what a sweep measures for
the attacks that need more than logits.
"""

import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core.errors import ConfigError, LayerError
from dptrain.training import example_gradients


def gradients(model, inputs, labels):
    """One example at a time, flat."""
    found = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])
def test_norms_and_cosines_equal_plain_autograd(name):
    """150 examples: more than one block."""
    start, end = (models.build(name, {}, (1, 28, 28), 10, seed) for seed in (0, 1))
    inputs, labels = torch.randn(150, 1, 28, 28), torch.arange(150) % 10
    expected = gradients(end, inputs, labels).norm(dim=1)
    ours = example_gradients.gradient_norms(end, dict(end.named_parameters()), inputs, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    first, last = (
        {key: value.detach() for key, value in model.named_parameters()} for model in (start, end)
    )
    way = torch.cat([(last[key] - first[key]).flatten() for key in first])
    each = gradients(start, inputs, labels)
    expected = -(each @ way) / (each.norm(dim=1) * way.norm())
    torch.testing.assert_close(
        example_gradients.gradient_cosines(start, first, last, inputs, labels),
        expected,
        rtol=1e-3,
        atol=1e-5,
    )


def test_a_model_that_never_moved_has_no_direction():
    model = models.build("logistic", {}, (4,), 3, 0)
    values = {key: value.detach() for key, value in model.named_parameters()}
    found = example_gradients.gradient_cosines(
        model, values, values, torch.randn(5, 4), torch.arange(5) % 3
    )
    assert not found.any()


def test_a_model_without_per_example_gradients_is_answered_in_one_line():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) * (1.0 if x.sum().item() > 0 else 2.0)

    model = Counting()
    with pytest.raises((ConfigError, LayerError), match="no gradient norms"):
        example_gradients.gradient_norms(
            model, dict(model.named_parameters()), torch.randn(5, 4), torch.arange(5) % 3
        )
