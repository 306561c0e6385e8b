"""Tests of pipeline.plan."""

import math
import re

import numpy as np
import pytest
from safetensors.numpy import load
from torch import nn

from dptrain import cli, models
from dptrain.config import compose, files
from dptrain.evaluation.utility import CONSTANT
from dptrain.pipeline.plan import plan
from tests.common import TINY, committed, strict_json
from tests.helpers.datasets import FILES
from tests.helpers.sweep import NO_MODEL, go, parameters


def test_auto_falls_back_to_one_model_at_a_time_and_says_so(tmp_path, capsys, fake_package):
    overrides = [
        *(o for o in TINY if not o.startswith("model.")),
        "model.name=scaled",
        "~model.hidden",
        "~model.activation",
        "models_per_setting=2",
    ]
    assert cli.main(["sweep", *overrides, f"output={tmp_path}"]) == 0
    assert (
        "engine vmap, one model at a time: layer '0' is Scale, which has no closed form"
        in capsys.readouterr().out
    )


def test_a_model_of_the_program_itself(tmp_path, monkeypatch):
    def mine(shape, classes, width=3):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width),
            nn.LayerNorm(width),
            nn.Linear(width, classes),
        )

    monkeypatch.setitem(models.MODELS, "mine", mine)
    assert (
        go(
            tmp_path, "model=mine", "+model.width=5", "training.workers=2", overrides=NO_MODEL
        ).trained
        == 12
    )
    weights = [load(data) for data in parameters(tmp_path).values()]
    assert {tuple(own["1.weight"].shape) for own in weights} == {(5, 784)}


def test_augmentations_need_images(tmp_path, capsys):
    np.savez(tmp_path / "table.npz", inputs=np.zeros((100, 5)), labels=np.arange(100) % 2)
    overrides = [
        *TINY,
        "dataset=npz",
        f"dataset.path={tmp_path / 'table.npz'}",
        "training.augmentations=[shift]",
    ]
    sizes = ["dataset.pool=60", "dataset.population=20", "dataset.test=20"]
    assert cli.main(["sweep", *overrides, *sizes]) == 2
    assert "training.augmentations: views are for images" in capsys.readouterr().err


EXPERIMENTS = files.groups()["experiment"]


SHRINK = [o for o in TINY if o.split("=")[0] not in ("name", "epsilons", "model.hidden")]


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=pytest.mark.long if name != "quickstart" else ())
        for name in EXPERIMENTS
    ],
)
def test_every_experiment_composes_and_its_shrunk_form_runs(experiment, tmp_path, monkeypatch):
    full = compose.load("sweep", [f"experiment={experiment}"])
    assert full.name == experiment
    there = []
    if full.dataset.name in FILES:
        FILES[full.dataset.name](tmp_path, monkeypatch)
        there = [f"dataset.path={tmp_path}"]
    few = sorted(full.epsilons, reverse=True)[:2]
    smaller = [
        f"epsilons=[{','.join(map(str, few))}]",
        f"dataset.canaries={min(full.dataset.canaries, 30)}",
    ]
    overrides = [f"experiment={experiment}", *smaller, *there]
    settings = plan(compose.load("sweep", [*SHRINK, *overrides])).settings
    shrunk = go(tmp_path / "out", *overrides, overrides=SHRINK)
    assert {row.setting for row in shrunk.rows} == {setting.name for setting in settings} | {
        "all",
        CONSTANT,
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_headers_state_command_time_and_numbers(experiment):
    text = (files.conf_folder() / "experiment" / f"{experiment}.yaml").read_text()
    assert f"dptrain sweep experiment={experiment}" in text
    assert "minute" in text
    rows = strict_json(committed(f"results/reference/{experiment}/metrics.json"))["rows"]
    worst = any(row["examples"] == "canaries" for row in rows)
    found = {
        (row["setting"], row["attack"], row["metric"]): row
        for row in rows
        if not worst or row["examples"] == "canaries" or not row["attack"]
    }
    for setting, accuracy, attack, auc in re.findall(
        r"^# +(\S+): accuracy (\.\d+), (\w+) AUC (\.\d+)", text, re.MULTILINE
    ):
        for stated, row in (
            (accuracy, found[setting, None, "test_accuracy"]),
            (auc, found[setting, attack.lower(), "auc"]),
        ):
            assert row["low"] <= float(stated) <= row["high"]
            assert abs(float(stated) - row["estimate"]) < 0.02
    assert len(re.findall(r": accuracy \.", text)) == len(
        {row["setting"] for row in rows} - {"all", CONSTANT}
    )
