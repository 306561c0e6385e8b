"""What holds on a processor holds on a GPU: `pytest -m cuda` on a machine that has one."""

import copy
import json

import numpy as np
import pytest
import torch

from dptrain.core.streams import seeded_key
from dptrain.core.types import EngineKind, Mechanism, Sampling, Setting
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train
from tests.common import TINY
from tests.helpers.clipping import CLASSES, SHAPE, convolutional, dense
from tests.helpers.sweep import go
from tests.runs import make_recipe

pytestmark = pytest.mark.cuda
CLIP = 0.3


@pytest.mark.parametrize("make", [convolutional, dense])
def test_a_private_run_is_that_of_the_processor(make):
    """Batches and noise are the same; sums are rounded to the same grid, so that a difference is a
    step of it.
    """
    ran = Mechanism(Sampling.POISSON, 32, 200, 5, 1.0, CLIP, 32)
    setting = Setting("s", "dpsgd", None, 1e-5, ran, make_recipe(0.1))
    initial, keys = [make() for _ in range(3)], [seeded_key(k, "cuda") for k in range(3)]
    inputs, labels = torch.randn(200, *SHAPE), torch.randint(0, CLASSES, (200,))
    members = np.random.default_rng(0).random((3, 200)) < 0.5

    def trained(device):
        data = TrainingData(inputs.to(device), labels.to(device), members)
        state = State.start(initial).to(torch.device(device))
        model = copy.deepcopy(initial[0]).to(device)
        trainer = Trainer.of(model, setting, EngineKind.STACKED, keys, data)
        final, _ = train(trainer, state, lambda *_: None)
        return final.parameters

    there, here = trained("cuda"), trained("cpu")
    step = 0.1 * ran.spacing / ran.divisor
    for name, value in here.items():
        assert float((there[name].cpu() - value).abs().max()) <= 5 * 3 * step, name


def test_a_sweep_on_a_gpu_is_whole(tmp_path):
    """From the command to the report, and read back."""
    out = go(tmp_path / "out", *TINY, "training.device=cuda")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["rows"]
    assert out.trained == 12
    assert go(tmp_path / "out", *TINY, "training.device=cuda").trained == 0
