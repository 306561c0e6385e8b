"""Tests of api."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import dptrain
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.data import datasets
from dptrain.evaluation.utility import CONSTANT
from tests.common import TINY
from tests.fleets import fleet


def test_importing_loads_no_torch():
    code = (
        "import sys, dptrain; dptrain.calibrate(epsilon=1, sample_rate=1, steps=9, "
        "prv_seconds=0); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    functions = {"advise", "attack", "calibrate", "estimate", "export", "inspect", "load", "sweep"}
    assert set(dptrain.__all__) == {"DPClassifier", "DPRegressor", "train", "tune", *functions}
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        dptrain.swep  # noqa: B018


def test_sweep_and_advise(tmp_path):
    given = [part for part in TINY if not part.startswith(("epsilons", "model.hidden"))]
    result = dptrain.sweep(
        *given, epsilons=[math.inf, 8.0], output=tmp_path / "a b", **{"model.hidden": [8]}
    )
    frame = result.to_frame()
    assert set(frame.setting) == {"none", "dpsgd-8", "all", CONSTANT}
    assert len(frame) == len(result.rows)
    assert frame.query("setting == 'none' and metric == 'test_accuracy'").estimate.item() > 0
    advised = dptrain.advise(tmp_path / "a b", max_auc=0.999)
    assert {candidate.name for candidate in advised.meeting} == {"none", "dpsgd-8"}
    with pytest.raises(ConfigError, match=r"training\.epoch"):
        dptrain.sweep(**{"training.epoch": 3})


def test_attack_on_arrays_is_attack_on_their_file(tmp_path):
    made = fleet(models=8, examples=300, leak=1.0)
    arrays = {"logits": made.logits, "labels": made.labels, "membership": made.membership}
    np.savez(tmp_path / "s.npz", **arrays)
    one, two = (
        dptrain.attack(arrays, attacks=["loss", "lira"]),
        dptrain.attack(tmp_path / "s.npz", attacks=["loss", "lira"]),
    )
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    assert one.to_frame().query("attack == 'lira' and metric == 'auc'").estimate.item() > 0.6
    with pytest.raises(ConfigError, match="scores"):
        dptrain.attack({"logits": made.logits})


def test_calibrate():
    found = dptrain.calibrate(epsilon=2, n=60000, batch_size=256, epochs=20, prv_seconds=0)
    assert 1.999 <= found.values["epsilon"] <= 2
    assert found.to_frame().loc["epsilon", "value"] == found.values["epsilon"]


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "it's",
        "C:\\x y",
        "end\\",
        "\\'",
        "a,b",
        "x=y",
        "ü",
        "{a}",
        "[1]",
        "",
        "null",
        "1e5",
        "True",
        "NaN",
        "inf",
        "plain",
    ],
)
def test_texts_arrive_as_they_are(value):
    assert compose.load("sweep", [], {"dataset.path": value}).dataset.path == value


def test_a_text_that_could_run_something_is_refused():
    with pytest.raises(ConfigError, match="interpolation"):
        compose.load("sweep", [], {"dataset.path": "${oc.env:HOME}"})


def test_frames_are_data_sets(tmp_path):
    """Of this program, with the same result as from a file."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=300), "c": rng.choice(["x", "y"], 300)})
    frame["y"] = np.where(frame.a + rng.normal(size=300) > 0, "yes", "no")
    frame.index = [f"p{number}@example.org" for number in range(300)]
    assert dptrain.inspect(frame, target="y").split == (210, 30, 60)
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    assert dptrain.inspect(path, target="y").classes == dptrain.inspect(frame, target="y").classes
    keys = {
        "dataset.target": "y",
        "epsilons": [math.inf],
        "models_per_setting": 2,
        "training.epochs": 2,
        "training.batch_size": 30,
        "model.hidden": [4],
        "attacks": ["loss"],
    }
    result = dptrain.sweep(frame=frame, output=tmp_path / "of frame", **keys)
    record = (result.folder / "metrics.json").read_text()
    assert "@example.org" not in record
    frame.loc[frame.index[0], "a"] += 1
    again = dptrain.sweep(frame=frame, output=tmp_path / "of frame", **keys)
    assert again.trained == 2  # another table, other models
    with pytest.raises(ConfigError, match=r"dataset.name: 'adult' is a data set already"):
        dptrain.sweep(frame=frame, **{**keys, "dataset.name": "adult"})
    final = dptrain.train(run=str(again.folder), setting="none", frame=frame)
    assert final.model.is_dir()
    by_text = dptrain.train(
        f"run={again.folder}", "setting=none", frame=frame, output=tmp_path / "by text"
    )
    assert by_text.model.is_dir()
    others = frame.assign(a=0.0)
    with pytest.raises(ConfigError, match="data"):
        dptrain.train(run=str(again.folder), setting="none", frame=others, output=tmp_path / "b")
    of_file = dptrain.sweep(
        "dataset=csv", output=tmp_path / "of file", **keys, **{"dataset.path": str(path)}
    )
    with pytest.raises(ConfigError, match=r"frame: .* read the data set csv; leave the frame out"):
        dptrain.train(run=str(of_file.folder), setting="none", frame=frame)
    for registry in (datasets.HELD, datasets.DATASETS, datasets.FRAMES):
        registry.pop("frame")
    with pytest.raises(ConfigError, match="has to be given again, frame=TABLE"):
        dptrain.train(run=str(again.folder), setting="none", output=tmp_path / "c")


@pytest.mark.long
def test_a_frame_is_tuned_and_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=400)})
    frame["y"] = np.where(frame.a > 0, "yes", "no")
    small = ["model=logistic", "training.batch_size=20", "training.epochs=2", "dataset.target=y"]
    final = dptrain.train(*small, frame=frame, setting="none", output=tmp_path / "final")
    assert final.model.is_dir()
    small += [
        "epsilon=8",
        "trials=4",
        "trials_law=poisson",
        "privacy.noise=seeded",
        "defence.dpsgd.learning_rate=1,2",
        f"output={tmp_path}/tuned",
    ]
    assert dptrain.tune(*small, frame=frame).final.model.is_dir()
    with pytest.raises(ConfigError, match="holds the trials of another choice"):
        dptrain.tune(*small, frame=frame.assign(a=frame.a + 1))
