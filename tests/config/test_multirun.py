"""`dptrain sweep --multirun`: a folder for each combination, one table, and no code from arguments.

In processes of their own, since Hydra's launchers change the state of the process they run in.
"""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from dptrain import cli
from dptrain.config import multirun
from dptrain.core.errors import ConfigError
from tests.common import TINY

FEW = [part for part in TINY if not part.startswith(("name", "models_per", "model.hidden"))]


def run(folder, *overrides):
    command = [sys.executable, "-m", "dptrain", "sweep", "--multirun", *FEW, *overrides]
    shape = [f"output={folder}", "models_per_setting=2", "epsilons=[inf]", "attacks=[loss]"]
    return subprocess.run([*command, *shape], cwd=folder, capture_output=True, text=True)


LAUNCHERS = [
    "basic",
    pytest.param(
        "joblib",
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(
                importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
                reason="hydra-joblib-launcher is not installed",
            ),
        ],
    ),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.long
def test_each_combination_has_its_folder(tmp_path, launcher):
    extra = [] if launcher == "basic" else ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    ran = run(tmp_path, "model=logistic", "seed=0,1", *extra)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for seed in (0, 1):
        record = json.loads((tmp_path / f"seed={seed}" / "metrics.json").read_text())
        assert record["config"]["seed"] == seed
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith(f"| seed={seed} ")]
        assert "none" in line
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["seed=0", "seed=1"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("hydra.launcher._target_=os.system", "hydra.launcher"),
        ("+hydra.callbacks.mine._target_=os.system", "hydra.callbacks"),
        ("hydra/launcher=nope", "hydra/launcher"),
        ("hydra.sweeper._target_=os.system", "hydra.sweeper"),
        ("seed=${oc.env:HOME},1", "seed"),
        ("seed=0,-1", "seed"),
        ("sead=0,1", "sead"),
    ],
)
def test_what_is_wrong_is_a_line_that_names_the_key(tmp_path, override, key, capsys):
    shape = [f"output={tmp_path}", "models_per_setting=2", "epsilons=[inf]", "attacks=[loss]"]
    assert cli.main(["sweep", "--multirun", *FEW, *shape, "model=logistic", override]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(("dptrain: error: +" + key, "dptrain: error: " + key))
    assert "Traceback" not in said


SMALL = ["epsilon=4", "training.epochs=2", "dataset.pool=200", "training.batch_size=20"]


@pytest.mark.long
def test_intervals_and_ranges_are_candidates_of_a_choice():
    """A range lists whole numbers; an interval is drawn from, the same in every run, on a
    logarithmic scale where its ends lie a factor of ten apart, and whole where the key is.
    """
    ranged = multirun.candidates([*SMALL, "training.epochs=range(1,4)"])
    assert [config.training.epochs for config in ranged.values()] == [1, 2, 3]
    drawn = [
        *SMALL,
        "defence.dpsgd.learning_rate=interval(0.1,100)",
        "training.batch_size=interval(10,50)",
        "training.schedule=constant,linear",
    ]
    points = multirun.candidates(drawn)
    assert list(points) == list(multirun.candidates(drawn))
    assert len(points) == multirun.POINTS
    rates = np.array([config.defence["dpsgd"].learning_rate for config in points.values()])
    assert (rates >= 0.1).all()
    assert (rates <= 100).all()
    # Even on a logarithmic scale: 20 draws, of which 2 or fewer below the middle have 2e-4.
    assert 3 <= (rates < 10**0.5).sum() <= 17
    sizes = [config.training.batch_size for config in points.values()]
    assert all(isinstance(size, int) and 10 <= size <= 50 for size in sizes)
    assert {config.training.schedule for config in points.values()} == {"constant", "linear"}
    # A later override takes the place of an interval; a short one has fewer numbers; the ends hold.
    replaced = ["defence.dpsgd.learning_rate=interval(1,2)", "defence.dpsgd.learning_rate=3"]
    [only] = multirun.candidates([*SMALL, *replaced]).values()
    assert only.defence["dpsgd"].learning_rate == 3
    few = multirun.candidates([*SMALL, "training.batch_size=interval(10,13)"])
    assert sorted(config.training.batch_size for config in few.values()) == [10, 11, 12, 13]
    close = multirun.candidates([*SMALL, "defence.dpsgd.learning_rate=interval(0.12345,0.12346)"])
    rates = [config.defence["dpsgd"].learning_rate for config in close.values()]
    assert len(set(rates)) == multirun.POINTS
    assert all(0.12345 <= rate <= 0.12346 for rate in rates)
    shuffled = [*SMALL, "training.batch_size=shuffle(8,16,32)"]
    assert list(multirun.candidates(shuffled)) == list(multirun.candidates(shuffled))
    for name, config in points.items():
        assert f"training.batch_size={config.training.batch_size}" in name


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.batch_size=interval(50,10)", "training.batch_size: interval.50,10. holds no"),
        ("training.epochs=interval(a,b)", "training.epochs: interval.a,b. holds no number"),
        ("utility=interval(1,2)", "utility: is no number, and an interval is of numbers"),
        ("sead=interval(1,2)", "sead: is no number"),
        ("defence.dpsgd.learning_rate=1,interval(2,4)", "an interval is the whole value"),
        ("training.batch_size=interval(start=1,end=2)", "holds no number"),
        ("training.batch_size=range(100,20)", "batch_size: lists no value; write a range"),
        (
            "defence.dpsgd.learning_rate=interval(-1,1)",
            "learning_rate: must be a finite number above 0",
        ),
    ],
)
def test_intervals_that_are_none(override, said):
    with pytest.raises(ConfigError, match=said):
        multirun.candidates([*SMALL, override])


def test_a_sweep_takes_no_interval(tmp_path):
    with pytest.raises(ConfigError, match="seed: an interval is for dptrain tune"):
        multirun.combinations(["seed=interval(0,5)", f"output={tmp_path}"])
