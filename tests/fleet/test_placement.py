"""What is left open is chosen; what is told is done."""

import dataclasses
import json

import pytest
import torch

from dptrain import cli, models
from dptrain.config import compose
from dptrain.core.errors import TrainingError
from dptrain.core.types import EngineKind
from dptrain.fleet import placement
from dptrain.fleet.placement import Placement
from dptrain.training import products
from dptrain.training.products import Products


def test_a_device_that_is_absent_is_one_line(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cli.main(["sweep", "training.device=cuda"]) == 2
    assert "training.device: cuda is not available here; use auto" in capsys.readouterr().err


def test_stacked_engine_asked_for_what_it_cannot(capsys, fake_package):
    overrides = [
        "model.name=scaled",
        "~model.hidden",
        "~model.activation",
        "training.engine=stacked",
    ]
    assert cli.main(["sweep", *overrides]) == 2
    assert (
        "training.engine: stacked cannot train this model: layer '0' is Scale"
        in capsys.readouterr().err
    )


CPU = torch.device("cpu")


def choose(name="mlp", shape=(1, 28, 28), overrides=(), settings=4, **options):
    chosen = compose.load("sweep", ["training.batch_size=64", *overrides])
    return placement.choose(
        chosen, models.build(name, options, shape, 10), shape, EngineKind.STACKED, CPU, settings
    )


def test_what_is_told_is_done():
    told = choose(overrides=["training.width=3", "training.workers=2", "training.physical_batch=9"])
    assert (told.width, told.physical_batch, len(told.places)) == (3, 9, 2)
    assert {place.threads for place in told.places} == {max(1, torch.get_num_threads() // 2)}
    # As many as there are models.
    assert choose(overrides=["training.width=99", "training.workers=1"]).width == 16


def test_measured_choice_is_among_the_candidates():
    free = choose()
    assert free.width in placement.WIDTHS
    assert free.physical_batch is None
    assert 1 <= len(free.places) <= placement.cores()


def test_little_memory_means_parts_and_narrow_stacks(monkeypatch):
    monkeypatch.setattr(placement, "memory", lambda _device: 64 * 2**20)
    small = choose("cnn", overrides=["training.workers=1"])
    assert small.width == 1
    model = models.build("cnn", {}, (1, 28, 28), 10)
    assert (
        1 <= small.physical_batch * placement.example_bytes(model, (1, 28, 28), 1) <= 64 * 2**20 / 4
    )


def test_views_take_memory():
    model = models.build("cnn", {}, (1, 28, 28), 10)
    one, four = (placement.example_bytes(model, (1, 28, 28), views) for views in (1, 4))
    assert 3 < (four - 4 * 26_010) / (one - 4 * 26_010) < 5


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, Products.ONEDNN), (0.95, Products.DEFAULT)]
)
def test_products_are_oneDNNs_where_they_save_a_tenth(monkeypatch, seconds, expected):
    """And what was chosen trains, and comes back from the file of the choice. Where oneDNN rounds
    on the processor of the test it would not be timed.
    """
    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "accurate", lambda: True)
    times = {Products.DEFAULT: 1e-3, Products.ONEDNN: 1e-3 * seconds}
    monkeypatch.setattr(
        placement._Trial, "step_seconds", lambda trial, width, *_: times[trial.products]
    )
    chosen = choose()
    assert chosen.products == expected
    assert ("products by onednn" in str(chosen)) == (expected == Products.ONEDNN)
    record = json.loads(json.dumps(dataclasses.asdict(chosen)))
    assert Placement.of(record) == chosen


def test_products_that_round_are_not_even_timed(monkeypatch):
    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "accurate", lambda: False)
    assert choose().products == Products.DEFAULT


def test_workers_only_where_they_gain(monkeypatch):
    """One thread each must beat all threads by a fifth, by more than the start of processes
    costs.
    """
    trial = placement._Trial(
        compose.load("sweep", []).training, torch.nn.Linear(2, 2), (2,), EngineKind.STACKED, CPU, 8
    )
    monkeypatch.setattr(placement, "cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seconds, steps, expected in (
            ((1.0, 1.0), 1000, 2),
            ((1.0, 1.7), 1000, 1),
            ((1.0, 1.0), 1, 1),
        ):
            answers = iter(seconds)
            monkeypatch.setattr(
                placement._Trial,
                "step_seconds",
                lambda _self, _width, answers=answers: next(answers),
            )
            assert trial.best_workers(1, 8, steps) == expected
        assert trial.best_workers(1, 1, 1000) == 1  # one stack is one job
    finally:
        torch.set_num_threads(threads)


def test_absent_device():
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match=r"device: cuda is not available here; use auto"):
            placement.choose_device("cuda")
    assert placement.choose_device("auto").type in ("cuda", "mps", "cpu")
