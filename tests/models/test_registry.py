"""What the guard refuses and what it lets pass."""

import pytest
import torch

from dptrain import models
from dptrain.core.errors import LayerError
from dptrain.models import validation
from tests.helpers.models import MODEL_SHAPE


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    validation.refuse_mixing(models.build("mlp", {}, MODEL_SHAPE, 5, 1), MODEL_SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_packages_add_models(fake_package):
    assert "scaled" in models.names()
    validation.refuse_mixing(models.build("scaled", {}, (1, 28, 28), 10), (1, 28, 28))


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("cnn", {}, "model.name"),
        ("scatter_linear", {}, "model.name"),
        ("resnet", {"depth": 12}, "model.depth"),
        ("resnet", {"width": 0}, "model.width"),
        ("resnet", {"groups": 5}, "model.groups"),
    ],
)
def test_networks_refuse_what_they_cannot_be(name, options, key):
    with pytest.raises(LayerError) as refused:
        models.build(name, options, MODEL_SHAPE if name != "resnet" else (3, 16, 16), 5)
    assert refused.value.about == key.removeprefix("model.").removesuffix("name")


def test_published_sizes():
    """26,010 parameters for the CNN of Opacus's MNIST example; 2.7 million for WRN-16-4 (Zagoruyko
    and Komodakis 2016, table 4).
    """

    def size(name, shape):
        return sum(
            parameter.numel() for parameter in models.build(name, {}, shape, 10).parameters()
        )

    assert size("cnn", (1, 28, 28)) == 26_010
    assert size("wrn16_4", (3, 32, 32)) == 2_748_890


def test_only_what_packages_bring_is_known_in_other_processes(monkeypatch, fake_package):
    monkeypatch.setitem(models.MODELS, "alias", models.mlp)
    monkeypatch.setitem(models.MODELS, "scaled", models.mlp)
    assert [models.known_elsewhere(name) for name in ("mlp", "batchnorm", "alias", "scaled")] == [
        True,
        True,
        False,
        False,
    ]
