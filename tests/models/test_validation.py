"""The validator and the probe: every poisoned model is refused, no sound one is."""

import math

import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core.errors import LayerError
from dptrain.fleet import placement
from dptrain.models import layers, validation
from dptrain.training.checks import unsupported
from tests.helpers.models import MODEL_SHAPE


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
    with pytest.raises(LayerError, match=r"remove|use GroupNorm|mend it|let it not"):
        validation.refuse_mixing(net(make()), MODEL_SHAPE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 8),
        nn.Softmax(dim=1),
        nn.Dropout(0.0),
        nn.Identity(),
    ],
)
def test_sound_layers_pass(layer):
    validation.refuse_mixing(net(layer), MODEL_SHAPE)


@pytest.mark.parametrize("name", models.MODELS)
def test_registered_models_are_sound_and_a_function_of_their_seed(name):
    shape = (3, 16, 16)
    model, again, other = (models.build(name, {}, shape, 5, seed) for seed in (3, 3, 4))
    validation.refuse_mixing(model, shape)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    assert models.trained(model)(torch.zeros(2, *models.trained_shape(model, shape))).shape == (
        2,
        5,
    )
    assert unsupported(models.trained(model), models.trained_shape(model, shape)) is None
    for one, two, three in zip(
        model.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert one.dim() == 1 or not torch.equal(one, three)  # norms start at ones and zeros


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
    validation.refuse_mixing(model, MODEL_SHAPE)
    assert placement.example_bytes(model, MODEL_SHAPE, 1) > 0
    assert placement.choose_engine(None, model, MODEL_SHAPE)[0] == (
        "vmap" if make in (Keyword, weight_norm) else "stacked"
    )


def test_a_model_for_other_inputs_is_refused():
    with pytest.raises(LayerError, match=r"the model fails on inputs of shape \[3, 4\]"):
        validation.refuse_mixing(nn.Linear(99, 5), MODEL_SHAPE)


class GroupNormed(nn.Module):
    """A residual network whose batch norms were replaced, on images so small
    that rounding shows.
    """

    def __init__(self):
        super().__init__()
        blocks = [nn.Conv2d(1, 32, 3, padding=1)]
        for _ in range(8):
            blocks += [layers.ResidualBlock(32, 32, 1, 16), nn.GroupNorm(16, 32)]
        self.body, self.head = nn.Sequential(*blocks), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(1e3 * self.body(1e-3 * x).mean((2, 3)))


def test_rounding_is_not_taken_for_mixing():
    """In float32 the outputs of a deep network move by 1e-5 and more with the size of the batch."""
    for seed in range(6):
        torch.manual_seed(seed)
        validation.refuse_mixing(GroupNormed(), (1, 8, 8))
        validation.refuse_mixing(models.resnet((1, 8, 8), 10), (1, 8, 8))


SHAPE, CLASSES = (1, 8, 8), 4


class Then(nn.Module):
    """flatten, Linear, something, Linear"""

    def __init__(self, something):
        super().__init__()
        self.first, self.something, self.last = nn.Linear(64, 12), something, nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.last(self.something(self.first(x.flatten(1))))


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Running(nn.Module):
    """Batch statistics in a buffer, used in the next step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x):
        y = x - self.mean
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return y


class Remembers(nn.Module):
    """The same in an attribute, which no list of buffers shows."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(12)

    def forward(self, x):
        y = x + self.last
        self.last = x.detach().mean(0)
        return y


class MixesGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + gradient.mean(0)


class Attention(nn.Module):
    """Over the examples of the batch."""

    def forward(self, x):
        return torch.softmax(x @ x.t() / math.sqrt(12), dim=-1) @ x


def frozen(layer):
    layer.eval()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    layer.train = lambda mode=True: layer
    return layer


POISONED = {
    "batch norm": lambda: Then(nn.BatchNorm1d(12)),
    "batch norm without parameters": lambda: Then(nn.BatchNorm1d(12, affine=False)),
    "frozen batch norm": lambda: Then(frozen(nn.BatchNorm1d(12))),
    "batch norm kept in evaluation mode, without parameters": lambda: Then(
        frozen(nn.BatchNorm1d(12, affine=False))
    ),
    "batch norm of images": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES)
    ),
    "synchronised batch norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(144, CLASSES)
    ),
    "instance norm with running statistics": lambda: nn.Sequential(
        nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, CLASSES)
    ),
    "centring": lambda: Then(Of(lambda x: x - x.mean(0))),
    "scaling by the batch": lambda: Then(Of(lambda x: x / (x.abs().amax() + 1))),
    "attention over the batch": lambda: Then(Attention()),
    "the neighbour's features": lambda: Then(Of(lambda x: x + 0.1 * x.roll(1, dims=0))),
    "division by the size of the batch": lambda: Then(Of(lambda x: x / len(x))),
    "the place in the batch": lambda: Then(Of(lambda x: x * torch.arange(1, len(x) + 1)[:, None])),
    "a running mean of its own": lambda: Then(Running()),
    "a memory outside of buffers": lambda: Then(Remembers()),
    "gradients mixed on the way back": lambda: Then(Of(MixesGradients.apply)),
    "random": lambda: Then(Of(lambda x: x * (torch.rand_like(x) > 0.5))),
    "dropout": lambda: Then(nn.Dropout(0.5)),
}


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Functional(nn.Module):
    """Its own weight, used without a layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 64) / 8)

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.weight)


def images(*layers, features):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


SOUND = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)),
    "without bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES, bias=False)),
    "mlp": lambda: models.mlp(SHAPE, CLASSES, (12,)),
    "deep mlp": lambda: models.mlp(SHAPE, CLASSES, (16, 12, 12, 8)),
    "relu": lambda: Then(nn.ReLU()),
    "relu in place": lambda: Then(nn.ReLU(inplace=True)),
    "gelu": lambda: Then(nn.GELU()),
    "silu": lambda: Then(nn.SiLU()),
    "prelu": lambda: Then(nn.PReLU()),
    "layer norm": lambda: Then(nn.LayerNorm(12)),
    "rms norm of the functions": lambda: Then(
        Of(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    ),
    "dropout of nothing": lambda: Then(nn.Dropout(0.0)),
    "softmax": lambda: Then(nn.Softmax(-1)),
    "normalised rows": lambda: Then(Of(lambda x: nn.functional.normalize(x, dim=1))),
    "residual": lambda: Then(Residual(nn.Linear(12, 12))),
    "the same layer twice": lambda: Then(
        (lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(12, 12))
    ),
    "sorted features": lambda: Then(Of(lambda x: x.sort(dim=1).values)),
    "constant buffer": lambda: Then(
        nn.Sequential(nn.LayerNorm(12, elementwise_affine=False), Of(lambda x: x + 1))
    ),
    "convolution": lambda: images(nn.Conv2d(1, 4, 3), nn.Tanh(), features=144),
    "strided, padded, grouped": lambda: images(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.ReLU(),
        features=36,
    ),
    "group norm": lambda: images(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), features=144),
    "instance norm": lambda: images(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), features=144),
    "max pooling": lambda: images(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), features=36),
    "mean pooling": lambda: images(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), features=16),
    "a row at a time": lambda: nn.Sequential(
        nn.Flatten(0, 1), nn.Linear(8, 6), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)
    ),
    "convolution along one side": lambda: nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(24, CLASSES)
    ),
    "a parameter of its own": Functional,
}


def refused(model):
    """Why a sweep would not train it: the validator and probe by name and by moving examples, or
    every engine against plain autograd.
    """
    try:
        validation.refuse_mixing(model, SHAPE)
        placement.choose_engine(None, model, SHAPE)
    except LayerError as error:
        return str(error)
    return None


def test_there_are_enough_of_them():
    assert len(POISONED) >= 15
    assert len(SOUND) >= 25


@pytest.mark.parametrize("name", POISONED)
def test_poisoned_models_are_refused(name):
    assert refused(POISONED[name]())


@pytest.mark.parametrize(
    "name",
    ["centring", "scaling by the batch", "attention over the batch", "the neighbour's features"],
)
def test_mixing_is_found_by_moving_examples(name):
    with pytest.raises(LayerError, match="depends on the others"):
        validation.refuse_mixing(POISONED[name](), SHAPE)


@pytest.mark.parametrize("name", SOUND)
def test_sound_models_pass(name):
    assert refused(SOUND[name]()) is None
