"""What only the owner of a model can measure, against plain autograd, and what a sweep measures for the attacks that need more than logits."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import cli, models, whitebox
from dptrain.types import ConfigError
from tests.conftest import TINY


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
    ours = whitebox.gradient_norms(end, dict(end.named_parameters()), inputs, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    first, last = ({key: value.detach() for key, value in model.named_parameters()} for model in (start, end))
    way = torch.cat([(last[key] - first[key]).flatten() for key in first])
    each = gradients(start, inputs, labels)
    expected = -(each @ way) / (each.norm(dim=1) * way.norm())
    torch.testing.assert_close(whitebox.gradient_cosines(start, first, last, inputs, labels), expected, rtol=1e-3, atol=1e-5)


def test_a_model_that_never_moved_has_no_direction():
    model = models.build("logistic", {}, (4,), 3, 0)
    values = {key: value.detach() for key, value in model.named_parameters()}
    found = whitebox.gradient_cosines(model, values, values, torch.randn(5, 4), torch.arange(5) % 3)
    assert not found.any()


def test_a_model_without_per_example_gradients_is_answered_in_one_line():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) * (1.0 if x.sum().item() > 0 else 2.0)

    model = Counting()
    with pytest.raises(ConfigError, match="no gradient norms"):
        whitebox.gradient_norms(model, dict(model.named_parameters()), torch.randn(5, 4), torch.arange(5) % 3)


MORE = "[merlin,morgan,label_only,gradient_norm,gradient_canary,trajectory,quantile,attack_p]"


def test_a_sweep_measures_what_its_attacks_need(tmp_path, capsys):
    """And nothing twice: the same sweep with one attack more trains nothing."""
    overrides = [
        *TINY,
        "dataset.pool=120",
        "dataset.population=120",
        "training.trajectory=3",
        "queries.copies=5",
        f"output={tmp_path / 'out'}",
    ]
    assert cli.main(["sweep", *overrides, f"attacks={MORE}"]) == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    aucs = {(row["setting"], row["attack"]): row["estimate"] for row in rows if row["metric"] == "auc" and row["attack"] != "blind"}
    names = MORE.strip("[]").split(",")
    assert set(aucs) == set(itertools.product(("none", "dpsgd-8"), names))
    assert all(value is not None for value in aucs.values())
    capsys.readouterr()
    assert cli.main(["sweep", *overrides, "attacks=[loss,label_only]", "attacks.label_only.copies=augmented"]) == 0
    assert "\n0 models trained now" in capsys.readouterr().out


def test_a_trajectory_must_be_asked_for(tmp_path, capsys):
    assert cli.main(["sweep", *TINY, "attacks=[trajectory]", f"output={tmp_path}"]) == 2
    assert "training.trajectory: must be at least 1" in capsys.readouterr().err


def test_losses_on_the_way_are_those_of_the_model_on_the_way(tmp_path):
    """The last checkpoint is the released model."""
    from dptrain import config, pipeline

    overrides = [*TINY, "training.trajectory=4", "training.epochs=20", "epsilons=[inf]", "attacks=[loss]", f"output={tmp_path / 'out'}"]
    chosen = config.load("sweep", overrides)
    pipeline.sweep(chosen, show_progress=False)
    ready = pipeline.plan(chosen)
    fleet = pipeline.load(ready, pipeline.Store(tmp_path / "out" / "store"))
    setting = ready.settings[0]
    kept, logits = fleet.trajectories(setting), fleet.logits(setting)["pool"][:, :, 0]
    assert kept.shape == (6, 60, 4)
    labels = torch.from_numpy(fleet.dataset.pool.labels)
    last = [nn.functional.cross_entropy(torch.from_numpy(own), labels, reduction="none").numpy() for own in logits]
    np.testing.assert_allclose(kept[:, :, -1], np.stack(last), rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(kept, axis=2)).max(axis=(0, 1)).min() > 0.01  # the model moved between any two
