"""Regression: measures equal scikit-learn's, models learn with and without DP, and their errors
are attacked.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

import dptrain
from dptrain import models
from dptrain.attacks.scores import Scores
from dptrain.core import streams
from dptrain.core.errors import ConfigError
from dptrain.core.types import EngineKind, Loss, Mechanism, Sampling, Setting
from dptrain.evaluation import utility
from dptrain.evaluation.evaluate import evaluate
from dptrain.evaluation.rows import AUC, Subject
from dptrain.evaluation.utility import Estimates
from dptrain.pipeline.regression import Regression
from dptrain.training.gradients.base import losses_of
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train
from tests.runs import make_recipe


@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_those_of_scikit_learn(seed):
    """To 1e-12, and to weights of any size."""
    rng = np.random.default_rng(seed)
    targets, weights = 50 + 20 * rng.normal(size=200), rng.integers(0, 3, 200).astype(float)
    said = Estimates(targets + rng.normal(size=200), targets)
    for each in (np.ones(200), weights):
        given = (targets, said.values)
        expected = {
            "rmse": sk.root_mean_squared_error(*given, sample_weight=each),
            "mae": sk.mean_absolute_error(*given, sample_weight=each),
            "r2": sk.r2_score(*given, sample_weight=each),
        }
        for name, value in expected.items():
            [ours] = utility.UTILITIES[name].of(said)(each[None])
            assert ours == pytest.approx(value, rel=1e-12, abs=1e-12), name


@pytest.mark.long
def test_intervals_cover():
    """RMSE and MAE of 200 fleets of six models: their 95 % intervals miss the truth in no more than
    27 runs, which chance exceeds with probability 1e-6.
    """
    rng = np.random.default_rng(5)
    missed = {"rmse": 0, "mae": 0}
    truth = {"rmse": np.sqrt(2.0), "mae": np.sqrt(2.0) * np.sqrt(2 / np.pi)}
    for _ in range(200):
        targets, shared = rng.normal(size=400), rng.normal(size=400)
        answers = [Estimates(targets + shared + rng.normal(size=400), targets) for _ in range(6)]
        measured = utility.resamples(answers)
        rows = utility.utility_rows(Subject("s", "", None, 0.0), measured, np.array([400]))
        for row in rows:
            name = str(row.metric.kind).removeprefix("test_")
            if name in missed:
                missed[name] += not row.low <= truth[name] <= row.high
    assert max(missed.values()) <= 27


@pytest.mark.parametrize("engine", list(EngineKind))
@pytest.mark.parametrize("kind", [Loss.SQUARED, Loss.ABSOLUTE])
def test_a_private_step_equals_micro_batches_of_one(engine, kind):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=generator)
    targets = torch.rand(30, generator=generator) * 2 - 1
    ran = Mechanism(Sampling.POISSON, 10, 30, 3, 0.0, 0.3, 10)
    setting = Setting("s", "dpsgd", 1.0, 1e-5, ran, make_recipe(0.5, loss=kind))
    model = models.build("mlp", {"hidden": [5]}, (4,), 1, 1)
    key, everyone = streams.seeded_key(0, "numbers"), np.ones((1, 30), dtype=bool)
    trainer = Trainer.of(model, setting, engine, [key], TrainingData(inputs, targets, everyone))
    state, _ = train(trainer, State.start([model]), lambda *_: None)
    for step in range(ran.steps):
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for row in streams.poisson(key, step, everyone[0], 10, 30):
            model.zero_grad()
            error = model(inputs[row : row + 1])[0, 0] - targets[row]
            (error.square() / 2 if kind == Loss.SQUARED else error.abs()).backward()
            norm = float(torch.stack([p.grad.norm() for p in model.parameters()]).norm())
            for name, p in model.named_parameters():
                total[name] += min(1.0, 0.3 / norm) * p.grad
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.5 * total[name] / 10
    for name, value in model.named_parameters():
        torch.testing.assert_close(state.parameters[name][0], value, rtol=1e-5, atol=1e-6)


def test_losses():
    said, targets = torch.tensor([[0.5], [-1.0]]), torch.tensor([0.0, 1.0])
    assert losses_of(Loss.SQUARED, said, targets).tolist() == [0.125, 2.0]
    assert losses_of(Loss.ABSOLUTE, said, targets).tolist() == [0.5, 2.0]
    classes = torch.tensor([0, 0])
    assert losses_of(Loss.CROSS_ENTROPY, said, classes).tolist() == [0.0, 0.0]


def test_the_likelihood_of_errors_has_the_spread_of_the_population():
    rng = np.random.default_rng(0)
    pool, outside = np.zeros(5), np.zeros(2000)
    said = (rng.normal(size=(2, 5, 1, 1)), 3 * rng.normal(size=(2, 2000, 1, 1)))
    squared = Regression(0, 10, Loss.SQUARED)
    losses, of_population = squared.losses((said[0], pool), (said[1], outside))
    assert losses.shape == (2, 5, 1)
    np.testing.assert_allclose(of_population.mean(axis=(1, 2)), 0.5)  # of r^2 / 2 s^2
    absolute = Regression(0, 10, Loss.ABSOLUTE)
    _, of_population = absolute.losses((said[0], pool), (said[1], outside))
    np.testing.assert_allclose(of_population.mean(axis=(1, 2)), 1.0)  # of |r| / b
    assert squared.units(np.array([-1.0, 0.0, 1.0])).tolist() == [0, 5, 10]
    assert squared.estimates(np.array([-9.0, 9.0]), np.zeros(2)).values.tolist() == [0, 10]


def test_planted_members_are_told_by_their_errors():
    rng = np.random.default_rng(1)
    membership = streams.memberships(16, 400, streams.seeded_key(0, "test"))
    spread = np.where(membership, 0.5, 1.0)
    errors = spread * rng.normal(size=(16, 400)) + 0.3 * rng.normal(size=400)
    outside = rng.normal(size=(16, 300))
    zero = np.zeros
    losses, of_population = Regression(0, 1, Loss.SQUARED).losses(
        (errors[:, :, None, None], zero(400)), (outside[:, :, None, None], zero(300))
    )
    nobody = np.zeros((16, 300), dtype=bool)
    population = Scores(None, zero(300, dtype=int), nobody, given_loss=of_population)
    scores = Scores(
        None, zero(400, dtype=int), membership, given_loss=losses, population=population
    )
    attacks = {"loss": {}, "lira": {"variance": "auto"}}
    found = evaluate(Subject("s", "none", None, 1e-5), scores, attacks, ())
    aucs = {row.attack: row for row in found.rows if row.metric == AUC}
    assert aucs["loss"].low > 0.6
    assert aucs["lira"].low > 0.55


def numbers(folder, count=500):
    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(count, 4)), columns=list("abcd"))
    table["price"] = (100 + 40 * table.a - 20 * table.b + 5 * rng.normal(size=count)).round(2)
    table.loc[:5, "price"] = np.nan
    table.loc[6, "price"] = 1e9
    table.to_csv(folder / "t.csv", index=False)
    return [
        "dataset=csv",
        f"dataset.path={folder}/t.csv",
        "dataset.target=price",
        "model=logistic",
        "models_per_setting=6",
        "training.batch_size=32",
        "training.epochs=30",
        "training.width=6",
        "training.workers=1",
        "defence.none.learning_rate=0.3",
        "defence.dpsgd.learning_rate=0.5",
        "epsilons=[inf,8]",
    ]


@pytest.mark.long
def test_a_table_from_sweep_to_prediction(tmp_path):
    options = [*numbers(tmp_path), "task=regression", "dataset.bounds=[0,200]"]
    result = dptrain.sweep(*options, f"output={tmp_path}/run", "attacks=[loss,lira,rmia]")
    of = {(row.setting, row.metric.name): row for row in result.rows if row.attack is None}
    assert of["none", "test_rmse"].high < 15
    assert of["dpsgd-8", "test_rmse"].high < 30
    assert of["constant prediction", "test_rmse"].low > 30
    assert of["none", "test_r2"].low > 0.8
    assert {row.attack for row in result.rows if row.metric == AUC} == {
        "loss",
        "lira",
        "rmia",
        "blind",
    }
    assert "public bounds 0 and 200" in result.statements["dpsgd-8"].preprocessing
    final = dptrain.train(run=tmp_path / "run", setting="none", output=tmp_path / "final")
    model = dptrain.load(final.model)
    from dptrain.release import predict

    inputs = model.encode(predict.rows_of(tmp_path / "t.csv", header=True))
    lines = list(model.lines(inputs))
    assert lines[0] == ["prediction"]
    said = np.array([float(line[0]) for line in lines[1:]])
    table = pd.read_csv(tmp_path / "t.csv")
    known = table.price.between(0, 200)
    assert np.abs(said - table.price)[known].mean() < 12
    assert said.min() >= 0
    assert said.max() <= 200


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "target: price has [0-9]+ different numbers on the population alone"),
        (["task=regression"], "dataset.bounds: give those of a regression"),
        (["task=regression", "dataset.bounds=[5,5]"], "dataset.bounds: give those"),
        (["dataset.bounds=[0,5]"], "dataset.bounds: are of task=regression"),
        (["task=regression", "dataset.bounds=[0,9]", "utility=auroc"], "utility: is no measure of"),
        (["utility=rmse"], "utility: is no measure of a classification"),
        (
            ["task=regression", "dataset.bounds=[0,9]", "attacks=[shadow]"],
            "attacks.shadow: attacks classes",
        ),
        (
            ["task=regression", "dataset.bounds=[0,9]", "decision=fitted"],
            "decision: is of classes",
        ),
    ],
)
def test_what_does_not_fit_the_task(more, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        dptrain.sweep(*numbers(tmp_path), *more, f"output={tmp_path}/run")


def test_inspect_of_a_regression(tmp_path):
    numbers(tmp_path)
    keys = {"task": "regression", "dataset.bounds": [0, 200]}
    looked = dptrain.inspect(tmp_path / "t.csv", target="price", **keys)
    assert looked.classes == {}
    assert looked.used == 494


def test_one_output_is_no_classifier():
    model = models.build("mlp", {"hidden": [3]}, (4,), 1, 0)
    assert isinstance(model[-1], nn.Linear)
    assert model[-1].out_features == 1
