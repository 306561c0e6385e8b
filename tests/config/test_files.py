"""YAML files: ours, and those of a folder that a user adds."""

import pytest
import yaml

from dptrain import cli
from dptrain.config import compose, files
from dptrain.core.errors import ConfigError

MINE = """# @package _global_
defaults:
  - override /dataset: digits
  - override /model: logistic
name: mine
epsilons: [4]
seed: 7
dataset:
  pool: 100
  population: ${dataset.test}
  test: 60
training:
  batch_size: 20
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(MINE)
    return tmp_path


def test_a_users_folder_adds_experiments(folder, capsys):
    loaded = compose.load("sweep", ["experiment=mine", "seed=8"], folders=[folder])
    assert (loaded.name, loaded.seed, loaded.dataset.population) == ("mine", 8, 60)
    assert "mine" in files.groups([folder])["experiment"]
    assert cli.main(["sweep", "--config-dir", str(folder), "--cfg", "experiment=mine"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["dataset"]["population"] == 60


def test_its_files_meet_the_same_checks(folder):
    for text, message in (
        ("model:\n  _target_: os.system\n", "not allowed"),
        ("seed: ${oc.env:HOME}\n", "interpolation"),
        ("seed: -3\n", "at least 0"),
        ("dataset:\n  pol: 3\n", "unknown key"),
    ):
        (folder / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}")
        with pytest.raises(ConfigError, match=message):
            compose.load("sweep", ["experiment=bad"], folders=[folder])
    with pytest.raises(ConfigError, match="there is no folder"):
        compose.load("sweep", [], folders=[folder / "none"])
