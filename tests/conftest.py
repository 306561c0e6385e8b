import json
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TINY = [
    "name=tiny",
    "dataset.pool=60",
    "dataset.population=20",
    "dataset.test=20",
    "training.batch_size=8",
    "training.epochs=2",
    "training.width=2",
    "training.workers=1",
    "model.hidden=[8]",
    "models_per_setting=6",
    "epsilons=[inf,8]",
    "privacy.noise=seeded",
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=1, help="run each test that takes a seed so many times, with other random numbers")


def pytest_generate_tests(metafunc):
    own = any("seed" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "seed" in metafunc.fixturenames and not own:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture
def tiny():
    """Overrides of a sweep that takes a second."""
    return list(TINY)


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Install a package with one model, `batchnorm`, through the entry point group, for this test only."""
    (tmp_path / "plugin_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def batchnorm(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))\n"
        "def scaled(shape, classes):\n"
        "    class Scale(nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.by = nn.Parameter(torch.ones(784))\n"
        "        def forward(self, x):\n"
        "            return x.flatten(1) * self.by\n"
        "    return nn.Sequential(Scale(), nn.Linear(784, classes))\n"
    )
    info = tmp_path / "plugin_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dptrain.models]\nbatchnorm = plugin_models:batchnorm\nscaled = plugin_models:scaled\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def committed(path):
    """A file of the checkout as it was committed: the README's first command writes over the results, and must not break the second."""
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True)
    return shown.stdout if shown.returncode == 0 else (ROOT / path).read_text()


def strict_json(text):
    """json.loads that refuses NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)
