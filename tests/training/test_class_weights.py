"""Class weights: each example's loss is multiplied before its gradient is clipped, so the clip
bounds what it adds whatever its class.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import dptrain
from dptrain import models
from dptrain.config import compose
from dptrain.core import streams
from dptrain.core.errors import ConfigError
from dptrain.core.store import Store
from dptrain.core.types import EngineKind, Mechanism, Sampling, Setting
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import load
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train
from tests.runs import make_recipe

N, CLASSES = 30, 3


@pytest.mark.parametrize("engine", list(EngineKind))
@pytest.mark.parametrize("clip", [math.inf, 0.4])
def test_a_step_equals_micro_batches_of_weighted_losses(engine, clip):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, 4, generator=generator)
    labels = torch.randint(0, CLASSES, (N,), generator=generator)
    weights = torch.tensor([0.02, 1.0, 5.0])
    ran = Mechanism(Sampling.POISSON, 10, N, 3, 0.0, clip, 10)
    setting = Setting("s", "none", None, 1e-5, ran, make_recipe(0.5))
    model = models.build("mlp", {"hidden": [5]}, (4,), CLASSES, 1)
    key, everyone = streams.seeded_key(0, "weights"), np.ones((1, N), dtype=bool)
    data = TrainingData(inputs, labels, everyone, class_weights=weights)
    trainer = Trainer.of(model, setting, engine, [key], data)
    state, _ = train(trainer, State.start([model]), lambda *_: None)
    for step in range(ran.steps):
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for row in streams.poisson(key, step, everyone[0], 10, N):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[row : row + 1]), labels[row : row + 1])
            (weights[labels[row]] * loss).backward()
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
            for name, p in model.named_parameters():
                total[name] += p.grad * (min(1.0, clip / norm) if math.isfinite(clip) else 1.0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.5 * total[name] / 10
    for name, value in model.named_parameters():
        torch.testing.assert_close(state.parameters[name][0], value, rtol=1e-5, atol=1e-6)


def test_weights_come_from_the_population_as_scikit_learn_counts_them(tiny, tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    options = [*tiny, "training.class_weights=balanced", f"output={tmp_path}"]
    ready = plan(compose.load("sweep", options))
    fleet = load(ready, Store(tmp_path / "store"))
    weights = fleet.class_weights(ready.settings[0]).numpy()
    labels = fleet.dataset.population.labels
    there = np.unique(labels)
    expected = compute_class_weight("balanced", classes=there, y=labels)
    share = len(there) / 10  # scikit-learn counts the classes that are there
    np.testing.assert_allclose(weights[there], expected * share, rtol=1e-6)
    absent = np.setdiff1d(np.arange(10), there)
    np.testing.assert_allclose(weights[absent], weights.max())


@pytest.mark.long
def test_weights_are_said_and_shape_the_models(tiny, tmp_path):
    plain = dptrain.sweep(*tiny, output=tmp_path / "a")
    weighted = dptrain.sweep(*tiny, "training.class_weights=balanced", output=tmp_path / "b")
    from dptrain.report.statement import sentences

    for name in ("none", "dpsgd-8"):
        text = " ".join(sentences(weighted.statements[name]).values())
        assert "weighted by the classes of the population" in text
        assert "weighted" not in " ".join(sentences(plain.statements[name]).values())
    assert weighted.statements["dpsgd-8"].epsilon == plain.statements["dpsgd-8"].epsilon
    with pytest.raises(ConfigError, match="dropout changes the loss itself"):
        dptrain.sweep(
            *tiny,
            "training.class_weights=balanced",
            "defence=[none,dropout]",
            "epsilons=[inf]",
            output=tmp_path / "c",
        )
