"""The commands as functions, and the scikit-learn classifier."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import dptrain
from dptrain import accounting, api, config
from dptrain.types import ConfigError
from tests.conftest import TINY
from tests.fleets import fleet


def test_importing_loads_no_torch():
    code = "import sys, dptrain; dptrain.calibrate(epsilon=1, sample_rate=1, steps=9, prv_seconds=0); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert set(dptrain.__all__) == {"DPClassifier", "advise", "attack", "calibrate", "sweep"}
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        dptrain.swep  # noqa: B018


def test_sweep_and_advise(tmp_path):
    given = [part for part in TINY if not part.startswith(("epsilons", "model.hidden"))]
    result = dptrain.sweep(*given, epsilons=[math.inf, 8.0], output=tmp_path / "a b", **{"model.hidden": [8]})
    frame = result.to_frame()
    assert set(frame.setting) == {"none", "dpsgd-8", "all"}
    assert len(frame) == len(result.rows)
    assert frame.query("setting == 'none' and metric == 'test_accuracy'").estimate.item() > 0
    advised = dptrain.advise(tmp_path / "a b", min_accuracy=0.001)
    assert {one.name for one in advised.meeting} == {"none", "dpsgd-8"}
    with pytest.raises(ConfigError, match=r"training\.epoch"):
        dptrain.sweep(**{"training.epoch": 3})


def test_attack_on_arrays_is_attack_on_their_file(tmp_path):
    made = fleet(models=8, examples=300, leak=1.0)
    arrays = {"logits": made.logits, "labels": made.labels, "membership": made.membership}
    np.savez(tmp_path / "s.npz", **arrays)
    one, two = dptrain.attack(arrays, attacks=["loss", "lira"]), dptrain.attack(tmp_path / "s.npz", attacks=["loss", "lira"])
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    assert one.to_frame().query("attack == 'lira' and metric == 'auc'").estimate.item() > 0.6
    with pytest.raises(ConfigError, match="scores"):
        dptrain.attack({"logits": made.logits})


def test_calibrate():
    found = dptrain.calibrate(epsilon=2, n=60000, batch_size=256, epochs=20, prv_seconds=0)
    assert 1.999 <= found.values["epsilon"] <= 2
    assert found.to_frame().loc["epsilon", "value"] == found.values["epsilon"]


@pytest.mark.parametrize(
    "value", ["a b", "it's", "C:\\x y", "end\\", "\\'", "a,b", "x=y", "ü", "{a}", "[1]", "", "null", "1e5", "True", "NaN", "inf", "plain"]
)
def test_texts_arrive_as_they_are(value):
    assert config.load("sweep", api._overrides({"dataset.path": value})).dataset.path == value


def test_a_text_that_could_run_something_is_refused():
    with pytest.raises(ConfigError, match="interpolation is not allowed"):
        config.load("sweep", api._overrides({"dataset.path": "${oc.env:HOME}"}))


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


PLAIN = dptrain.DPClassifier(epsilon=math.inf, hidden=(8,), learning_rate=0.5, momentum=0.9, noise_seed=0)


@parametrize_with_checks([dptrain.DPClassifier(noise_seed=0), PLAIN])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check):
    """All of them, some of which want two fits to be alike: so the noise is seeded."""
    check(estimator)


def test_classifier_learns_and_states_what_it_promises():
    X, y = data()
    model = dptrain.DPClassifier(epsilon=4, random_state=0, noise_seed=0).fit(X[:400], y[:400])
    assert model.score(X[400:], y[400:]) > 0.85
    assert model.epsilon_ == accounting.epsilon(model.mechanism_, 1e-5)
    assert 3.99 <= model.epsilon_ <= 4
    told = model.privacy_statement_
    assert told["guarantee"].startswith(
        "none against whoever knows the seed of the noise; against all others (4.000, 1e-05)-differential privacy"
    )
    assert told["neighbours"] == "zero-out-one; the number of rows, 400, is public, and the same in both"
    assert "whoever knows the seed" in told["randomness"]
    assert "GridSearchCV" in told["tuning"]
    assert len(told) == 15
    assert set(model.predict(X)) <= set(y)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    json.dumps(dict(told))


def test_fresh_noise_unless_seeded():
    X, y = data()
    fits = [dptrain.DPClassifier(epochs=2, random_state=0, noise_seed=seed).fit(X, y).predict_proba(X) for seed in (None, None, 3, 3)]
    assert not np.array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[2], fits[3])


def test_without_privacy_nothing_is_promised():
    X, y = data()
    model = dptrain.DPClassifier(epsilon=math.inf, learning_rate=0.2, random_state=0).fit(X, y)
    assert model.epsilon_ == math.inf
    assert model.privacy_statement_["guarantee"].startswith("none")


def test_pipeline_and_grid_search():
    X, y = data()
    steps = make_pipeline(FunctionTransformer(np.abs), dptrain.DPClassifier(epochs=3, random_state=0))
    search = GridSearchCV(steps, {"dpclassifier__epsilon": [1.0, 8.0]}, cv=2).fit(X, y)
    assert search.best_params_["dpclassifier__epsilon"] in (1.0, 8.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 0.5}, "delta"),
        ({"clip": 0}, "clip"),
        ({"learning_rate": 1e38, "epsilon": math.inf, "hidden": (8,), "momentum": 0.9}, "diverged"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        dptrain.DPClassifier(random_state=0, **parameters).fit(*data())
