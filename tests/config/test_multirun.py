"""`dptrain sweep --multirun`: a folder for each combination, one table, and no code from arguments.

In processes of their own, since Hydra's launchers change the state of the process they run in.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

from dptrain import cli
from tests.common import TINY

FEW = [part for part in TINY if not part.startswith(("name", "models_per", "model.hidden"))]


def multirun(folder, *overrides):
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
    ran = multirun(tmp_path, "model=logistic", "seed=0,1", *extra)
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
