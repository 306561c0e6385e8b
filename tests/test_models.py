"""What the guard refuses and what it lets pass."""

import pytest
import torch
from torch import nn

from dptrain import models, placement, probe
from dptrain.layers import WSConv2d
from dptrain.probe import unsupported
from dptrain.types import ConfigError

SHAPE = (3, 4)


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class TakesFromTheRest(nn.Module):
    def forward(self, x):
        return torch.cat([x[:1] + x[1:].sum(0, keepdim=True), x[1:]])


class Shift(nn.Module):
    def forward(self, x):
        return x + 0.1 * x.roll(1, 0)


class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += x.mean()
        return x


class Drop(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


def net(layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), layer, nn.Linear(8, 5))


def frozen():
    layer = nn.BatchNorm1d(8)
    layer.eval()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    return layer


MIXING = {
    "batch norm": lambda: nn.BatchNorm1d(8),
    "without parameters": lambda: nn.BatchNorm1d(8, affine=False),
    "without statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "frozen": frozen,
    "sync": lambda: nn.SyncBatchNorm(8),
    "lazy": lambda: nn.LazyBatchNorm1d(),
    "batch centring": Centre,
    "first takes from the rest": TakesFromTheRest,
    "neighbour": Shift,
    "softmax over the batch": lambda: nn.Softmax(dim=0),
    "buffer": Count,
    "dropout": lambda: nn.Dropout(0.5),
    "functional dropout": Drop,
    "random slopes": nn.RReLU,
}


@pytest.mark.parametrize("make", MIXING.values(), ids=MIXING)
def test_mixing_layers_are_refused(make):
    with pytest.raises(ConfigError, match=r"model\.name"):
        probe.refuse_mixing(net(make()), SHAPE)


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.Softmax(dim=1), nn.Dropout(0.0), nn.Identity()])
def test_sound_layers_pass(layer):
    probe.refuse_mixing(net(layer), SHAPE)


@pytest.mark.parametrize("name", models.MODELS)
def test_registered_models_are_sound_and_a_function_of_their_seed(name):
    shape = (3, 16, 16)
    model, again, other = (models.build(name, {}, shape, 5, seed) for seed in (3, 3, 4))
    probe.refuse_mixing(model, shape)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    assert models.trained(model)(torch.zeros(2, *models.trained_shape(model, shape))).shape == (2, 5)
    assert unsupported(models.trained(model), models.trained_shape(model, shape)) is None
    for one, two, three in zip(model.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.dim() == 1 or not torch.equal(one, three)  # norms start at ones and zeros


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    probe.refuse_mixing(models.build("mlp", {}, SHAPE, 5, 1), SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_packages_add_models(fake_package):
    assert "scaled" in models.names()
    probe.refuse_mixing(models.build("scaled", {}, (1, 28, 28), 10), (1, 28, 28))


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
    with pytest.raises(ConfigError) as refused:
        models.build(name, options, SHAPE if name != "resnet" else (3, 16, 16), 5)
    assert refused.value.key == key


def test_published_sizes():
    """26,010 parameters for the CNN of Opacus's MNIST example; 2.7 million for WRN-16-4 (Zagoruyko and Komodakis 2016, table 4)."""

    def size(name, shape):
        return sum(parameter.numel() for parameter in models.build(name, {}, shape, 10).parameters())

    assert size("cnn", (1, 28, 28)) == 26_010
    assert size("wrn16_4", (3, 32, 32)) == 2_748_890


def test_weights_are_standardised_and_so_blind_to_their_scale():
    layer = WSConv2d(3, 8, 3)
    rows, _ = WSConv2d.standardise(layer.weight.flatten(1))
    torch.testing.assert_close(rows.mean(1), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.square().sum(1), torch.ones(8), atol=1e-4, rtol=0)
    x = torch.randn(2, 3, 6, 6)
    before = layer(x) - layer.bias[:, None, None]
    with torch.no_grad():
        layer.weight.mul_(3).add_(7)
    torch.testing.assert_close(layer(x) - layer.bias[:, None, None], before, rtol=1e-3, atol=1e-3)


class Tokens(nn.Module):
    """Looks inputs up in a table, so that numbers below zero are an error."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.out(self.table(x.flatten(1).long()).mean(1))


class Pair(nn.Module):
    """A block that returns two tensors."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 5)

    def forward(self, x):
        return self.inner(x.flatten(1)), x


class UsesPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.pair(x)[0]


class Keyword(UsesPair):
    def forward(self, x):
        return self.pair.inner(input=x.flatten(1))


class Float(nn.Module):
    """Insists on float32."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 5)

    def forward(self, x):
        return self.inner(x.flatten(1).float())


def weight_norm():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(12, 5)))


@pytest.mark.parametrize("make", [Tokens, UsesPair, Keyword, Float, weight_norm])
def test_models_of_users_are_taken_or_answered_in_one_line(make):
    """Every probe of the start, on modules that are written in other ways than ours."""
    model = make()
    probe.refuse_mixing(model, SHAPE)
    assert placement.example_bytes(model, SHAPE, 1) > 0
    assert placement.choose_engine("auto", model, SHAPE)[0] == ("vmap" if make in (Keyword, weight_norm) else "stacked")


def test_a_model_for_other_inputs_is_refused():
    with pytest.raises(ConfigError, match=r"model\.name: the model fails on inputs of shape \[3, 4\]"):
        probe.refuse_mixing(nn.Linear(99, 5), SHAPE)


def test_only_what_packages_bring_is_known_in_other_processes(monkeypatch, fake_package):
    monkeypatch.setitem(models.MODELS, "alias", models.mlp)
    monkeypatch.setitem(models.MODELS, "scaled", models.mlp)
    assert [models.known_elsewhere(name) for name in ("mlp", "batchnorm", "alias", "scaled")] == [True, True, False, False]
