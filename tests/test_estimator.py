"""The commands as functions, and the scikit-learn classifier."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import dptrain
from dptrain.estimator import DPClassifier
from dptrain.privacy import pld
from dptrain.report.statement import sentences
from tests.helpers.small_sweep import folds


def data():
    X, y = load_breast_cancer(return_X_y=True)
    return np.tanh(
        X
        / np.array(
            [
                14,
                19,
                92,
                650,
                0.1,
                0.1,
                0.1,
                0.05,
                0.2,
                0.06,
                0.4,
                1.2,
                3,
                40,
                0.007,
                0.025,
                0.03,
                0.01,
                0.02,
                0.004,
                16,
                26,
                107,
                880,
                0.13,
                0.25,
                0.27,
                0.11,
                0.29,
                0.08,
            ]
        )
        - 1
    ), y


PLAIN = dptrain.DPClassifier(
    epsilon=math.inf, hidden=(8,), learning_rate=0.5, momentum=0.9, noise_seed=0
)


@pytest.mark.long
@parametrize_with_checks([dptrain.DPClassifier(noise_seed=0), PLAIN])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check):
    """All of them, some of which want two fits to be alike: so the noise is seeded."""
    check(estimator)


def test_classifier_learns_and_states_what_it_promises():
    X, y = data()
    model = dptrain.DPClassifier(epsilon=4, random_state=0, noise_seed=0).fit(X[:400], y[:400])
    assert model.score(X[400:], y[400:]) > 0.85
    assert model.epsilon_ == pld.epsilon(model.mechanism_, 1e-5)
    assert 3.99 <= model.epsilon_ <= 4
    told = sentences(model.privacy_statement_)
    assert told["guarantee"].startswith(
        "none against whoever knows the seed of the noise; against all others (4.000, "
        "1e-05)-differential privacy"
    )
    assert (
        told["neighbours"]
        == "zero-out-one; the number of rows, 400, is public, and the same in both"
    )
    assert "whoever knows the seed" in told["randomness"]
    assert "GridSearchCV" in told["tuning"]
    assert len(told) == 15
    assert set(model.predict(X)) <= set(y)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    json.dumps(dict(told))


def test_fresh_noise_unless_seeded():
    X, y = data()
    fits = [
        dptrain.DPClassifier(epochs=2, random_state=0, noise_seed=seed).fit(X, y).predict_proba(X)
        for seed in (None, None, 3, 3)
    ]
    assert not np.array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[2], fits[3])


def test_without_privacy_nothing_is_promised():
    X, y = data()
    model = dptrain.DPClassifier(epsilon=math.inf, learning_rate=0.2, random_state=0).fit(X, y)
    assert model.epsilon_ == math.inf
    assert sentences(model.privacy_statement_)["guarantee"].startswith("none")


@pytest.mark.long
def test_pipeline_and_grid_search():
    X, y = data()
    steps = make_pipeline(
        FunctionTransformer(np.abs), dptrain.DPClassifier(epochs=3, random_state=0)
    )
    search = GridSearchCV(steps, {"dpclassifier__epsilon": [1.0, 8.0]}, cv=2).fit(X, y)
    assert search.best_params_["dpclassifier__epsilon"] in (1.0, 8.0)


DIVERGING = {
    "learning_rate": 9e29,
    "clip": 1e6,
    "batch_size": 1,
    "epochs": 2,
    "momentum": 0.99,
}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 0.5}, "delta"),
        ({"epsilon": "a"}, "epsilon"),
        ({"clip": 0}, "clip"),
        ({"momentum": -1}, "momentum"),
        ({"momentum": 1.0}, "momentum"),
        ({"device": "tpu"}, "device"),
        ({"epochs": math.inf}, "epochs"),
        ({"hidden": 5}, "hidden"),
        ({"hidden": (5, 0)}, "hidden"),
        ({"batch_size": None}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": 1e38}, "learning_rate"),
        (DIVERGING, "diverged"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        dptrain.DPClassifier(random_state=0, **parameters).fit(*data())


def fitted(x, y, noise=True, **options):
    """Parameters of a fit that is noise for the most part; without it, those that
    it starts from.
    """
    if not noise:
        model = DPClassifier(epsilon=math.inf, epochs=1e-9, learning_rate=1e-30, **options).fit(
            x, y
        )
        return torch.cat([value.flatten() for value in model._parameters.values()]).numpy()
    # Noise, for the most part.
    model = DPClassifier(epsilon=0.05, epochs=2, learning_rate=20.0, **options)
    model.fit(x, y)
    return torch.cat([value.flatten() for value in model._parameters.values()]).numpy()


def test_two_fits_share_no_noise_whatever_the_random_state():
    one, other = folds()
    assert (
        abs(np.corrcoef(fitted(*one, random_state=7), fitted(*other, random_state=7))[0, 1]) < 0.7
    )


def test_a_noise_seed_repeats_a_fit_and_no_other():
    one, other = folds()
    neighbour = (one[0].copy(), one[1])
    neighbour[0][0] += 1
    options = {"random_state": 7, "noise_seed": 3}
    first = fitted(*one, **options)
    np.testing.assert_array_equal(first, fitted(*one, **options))
    for rows in (other, neighbour):
        assert abs(np.corrcoef(first, fitted(*rows, **options))[0, 1]) < 0.7
    statement = sentences(DPClassifier(epochs=1, **options).fit(*one).privacy_statement_)
    assert statement["guarantee"].startswith("none against whoever knows the seed")


def test_seeded_fits_of_other_initial_weights_share_no_noise():
    """Subtracting two models of one noise left their gradients bare."""
    one, _ = folds()
    models = [fitted(*one, random_state=state, noise_seed=3) for state in (0, 1)]
    starts = [fitted(*one, random_state=state, noise_seed=3, noise=False) for state in (0, 1)]
    moved = [model - start for model, start in zip(models, starts, strict=True)]
    assert abs(np.corrcoef(*moved)[0, 1]) < 0.7


@pytest.mark.long
@parametrize_with_checks([dptrain.DPRegressor(bounds=(-300, 300), noise_seed=0)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_of_the_regressor(estimator, check):
    check(estimator)


def numbers(rows=600):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (rows, 3))
    return X, 50 + 30 * X[:, 0] - 10 * X[:, 1] + rng.normal(0, 2, rows)


def test_regressor_learns_between_public_bounds():
    X, y = numbers()
    model = dptrain.DPRegressor(bounds=(0, 100), epsilon=8, learning_rate=0.5, batch_size=64)
    model.fit(X[:500], y[:500])
    assert model.score(X[500:], y[500:]) > 0.6
    assert model.epsilon_ <= 8
    assert (
        "bounds of the target and number of rows public" in model.privacy_statement_.preprocessing
    )
    wild = dptrain.DPRegressor(bounds=(40, 60), epsilon=math.inf, learning_rate=0.5).fit(
        X, 1000 * y
    )
    assert 40 <= wild.predict(X).min() <= wild.predict(X).max() <= 60
    with pytest.raises(ValueError, match="bounds must be two numbers"):
        dptrain.DPRegressor(bounds=(5, 5)).fit(X, y)
    with pytest.raises(ValueError, match="loss must be squared or absolute"):
        dptrain.DPRegressor(loss="huber").fit(X, y)
    dptrain.DPRegressor(bounds=(0, 100), loss="absolute", epsilon=math.inf).fit(X, y)


class Gate(torch.nn.Module):
    """No chain of layers of torch.nn."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(30, 4), torch.nn.Linear(30, 4)
        self.out = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.left(x)) * torch.sigmoid(self.right(x)))


def test_any_module_and_any_registered_model():
    X, y = data()
    torch.manual_seed(0)
    gate = Gate()
    before = [p.clone() for p in gate.parameters()]
    model = dptrain.DPClassifier(model=gate, epsilon=8).fit(X[:400], y[:400])
    assert model.score(X[400:], y[400:]) > 0.8
    assert all(torch.equal(a, b) for a, b in zip(before, gate.parameters(), strict=True))
    assert set(model.privacy_statement_.supplied_weights) == {
        name for name, _ in gate.named_parameters()
    }
    named = dptrain.DPClassifier(model="mlp", epsilon=math.inf).fit(X, y)
    assert named.score(X, y) > 0.85
    assert named.privacy_statement_.supplied_weights == ()
    with pytest.raises(ValueError, match="unknown model 'nothing'"):
        dptrain.DPClassifier(model="nothing").fit(X, y)


def test_a_fitted_model_is_exported(tmp_path):
    X, y = data()
    model = dptrain.DPClassifier(hidden=(8,), epsilon=8, noise_seed=1).fit(X, y)
    loaded = dptrain.load(model.export(tmp_path / "model", "breast cancer"))
    inputs = torch.from_numpy(X.astype(np.float32))
    np.testing.assert_allclose(loaded.probabilities(inputs), model.predict_proba(X), atol=1e-6)
    assert loaded.decisions(inputs) == [str(each) for each in model.predict(X)]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "breast cancer" in card
    assert "(8.00" in card or "(7.99" in card
    Z, t = numbers()
    regressor = dptrain.DPRegressor(bounds=(0, 100), epsilon=math.inf).fit(Z, t)
    again = dptrain.load(regressor.export(tmp_path / "numbers"))
    outputs = again.outputs(torch.from_numpy(Z.astype(np.float32)))
    np.testing.assert_allclose(again.values(outputs), regressor.predict(Z), rtol=1e-5)
    torch.manual_seed(0)
    gate = dptrain.DPClassifier(model=Gate(), epsilon=math.inf, epochs=1).fit(X, y)
    folder = gate.export(tmp_path / "gate")
    from dptrain.release.predict import Model

    with pytest.raises(ValueError, match="give the module"):
        Model(folder)
    np.testing.assert_allclose(
        Model(folder, Gate()).probabilities(inputs), gate.predict_proba(X), atol=1e-5
    )
    assert "predict.Model" in (folder / "README.md").read_text()
    np.testing.assert_allclose(
        dptrain.load(folder, Gate()).probabilities(inputs), gate.predict_proba(X), atol=1e-5
    )
    with pytest.raises(ValueError, match="a regression has no classes"):
        again.probabilities(torch.zeros(1, 3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other files"):
        model.export(tmp_path / "mine")
