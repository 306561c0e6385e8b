"""Tests of fleet.blueprint."""

import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.fleet import blueprint
from dptrain.report.statement import sentences
from tests.helpers.small_sweep import small_sweep


def pretrained(noise):
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))

    def build(shape, classes):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        with torch.no_grad():
            model[1].weight.copy_(weights + noise * torch.randn(10, 64))
        return model

    return build


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.long), 0.1, 1.5])
def test_weights_that_a_builder_brings_along_are_named(tmp_path, monkeypatch, noise):
    monkeypatch.setitem(models.MODELS, "mine", pretrained(noise))
    said = sentences(small_sweep(tmp_path, "model=mine").statements["dpsgd-8"])
    assert "only if the initial weights" in said["guarantee"]
    assert "1.weight" in said["initial weights"]
    assert not any("no pretraining" in text for text in said.values())


def test_weights_that_are_drawn_are_not(tmp_path, monkeypatch):
    monkeypatch.setitem(
        models.MODELS,
        "mine",
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)),
    )
    said = sentences(small_sweep(tmp_path, "model=mine").statements["dpsgd-8"])
    assert "initial weights" not in said
    assert "only if" not in said["guarantee"]


def summed(threads, model, shape):
    """The digest of a model where so many threads share its sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return blueprint.architecture(model, shape, "mlp")
    finally:
        torch.set_num_threads(before)


class Shuffled(nn.Linear):
    """A layer that adds up in another order, as other threads and processors do."""

    def forward(self, x):
        order = torch.randperm(x.shape[-1])
        return nn.functional.linear(x[:, order], self.weight[:, order], self.bias)


def test_the_number_of_threads_makes_no_other_model():
    """It would be trained, and its privacy paid for, again."""
    model = models.build("mlp", {"hidden": [128]}, (1, 28, 28), 10, seed=0)
    assert summed(1, model, (1, 28, 28)) == summed(2, model, (1, 28, 28))
    torch.manual_seed(0)
    last = Shuffled(5000, 10)
    batch = torch.randn(8, 5000, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(last(batch), last(batch))
    assert blueprint._logits(last, batch) == blueprint._logits(last, batch)


def test_what_text_and_weights_do_not_tell_logits_do():
    def build(factor):
        torch.manual_seed(0)
        layer = nn.Linear(4, 2)
        layer.register_forward_hook(lambda module, inputs, output: output * factor)
        return layer

    digests = {blueprint.architecture(build(factor), (4,), "mlp") for factor in (1.0, 1.001)}
    assert len(digests) == 2
