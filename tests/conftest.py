"""Fixtures of tests of all packages."""

import functools
import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests import shapes

shapes.install()

from dptrain.report.charts import figures
from tests.common import TINY
from tests.fleets import fleet
from tests.helpers.foreign import arrays_of, save
from tests.helpers.sweep import SLOW, go, ledgers, parameters, trajectories


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


_picture = functools.cache(functools.partial(figures.image, Figure(figsize=(1, 1))))


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Pictures, and second opinions of another process, take most of a tiny sweep's time. Tests of
    these are marked `whole`.
    """
    if request.node.get_closest_marker("whole"):
        return
    monkeypatch.setattr(figures, "image", lambda _figure, kind: _picture(kind))
    monkeypatch.setattr(figures, "pixels", lambda _figure: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr("dptrain.privacy.prv.prv_epsilon", lambda *_: 1.0)
    monkeypatch.setattr("dptrain.report.charts.interactive.library", lambda: "window.vegaEmbed;")


def pytest_addoption(parser):
    parser.addoption(
        "--seeds",
        type=int,
        default=1,
        help="run each test that takes a seed so many times, with other random numbers",
    )


def pytest_collection_modifyitems(items):
    """The longest file first, so that no process ends long after the other; and without a GPU
    nothing that needs one.
    """
    items.sort(key=lambda item: item.path.name != "test_readme.py")
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


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
    """Install a package with one model, `batchnorm`, through the entry point group, for this test
    only.
    """
    (tmp_path / "plugin_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def batchnorm(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), "
        "nn.Linear(8, classes))\n"
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
    (info / "entry_points.txt").write_text(
        "[dptrain.models]\nbatchnorm = plugin_models:batchnorm\nscaled = plugin_models:scaled\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def good(tmp_path):
    return save(tmp_path / "my.npz", **arrays_of(fleet(models=8, examples=120, leak=2.0)))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return go(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    whole = parameters(go(folder, overrides=SLOW).folder)
    return (
        whole,
        json.loads((folder / "metrics.json").read_text())["rows"],
        trajectories(folder),
        ledgers(folder),
    )
