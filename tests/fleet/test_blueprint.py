"""Tests of fleet.blueprint."""

import pytest
import torch
from torch import nn

from dptrain import models
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
