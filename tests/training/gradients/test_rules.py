"""Every rule = micro-batches of one, over random shapes; and = Opacus where it has the layer. Each
example is drawn by hypothesis, seeded.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dptrain.core.types import Clipping, EngineKind, Precision
from dptrain.models.layers import ResidualBlock, WSConv2d
from dptrain.training.checks import disagreement, unsupported
from dptrain.training.gradients import rules
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.gradients.rules import RULES
from tests import reference

CLASSES = 4


drawn = settings(max_examples=40, deadline=None, derandomize=True)


counts = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
"""models, examples, views"""


class Head(nn.Module):
    """body, then a pooled linear head that every layout of features fits."""

    def __init__(self, body, features, prepare=None):
        super().__init__()
        self.body, self.out, self.prepare = body, nn.Linear(features, CLASSES), prepare

    def forward(self, x):
        z = torch.tanh(self.body(x if self.prepare is None else self.prepare(x)))
        pooled = z.flatten(2).mean(2) if z.dim() > 2 else z
        return self.out(nn.functional.pad(pooled, (0, self.out.in_features - pooled.shape[1])))


def check(make, shape, sizes, clip=None, engine="stacked", seed=0, inputs=None):
    models, examples, views = sizes
    torch.manual_seed(seed)
    stacked = [make() for _ in range(models)]
    if inputs is None:
        inputs = 2 * torch.randn(models, examples, views, *shape)
    labels = torch.randint(0, CLASSES, (models, examples))
    weights = torch.rand(models, examples) < 0.8
    parameters = stack(stacked)
    clip = clip or 0.5
    out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
    assert engine == "opacus" or unsupported(stacked[0], tuple(shape)) is None
    ENGINES[engine](stacked[0], Precision.FLOAT32)(
        parameters, inputs, labels, weights, Clipper.of(Clipping.FLAT, clip), out
    )
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(model, inputs[k], labels[k], weights[k], clip)
        scale = max(float(value.abs().max()) for value in expected.values()) + 1e-8
        for name, value in expected.items():
            assert float((out[name][k] - value).abs().max()) <= 1e-5 * scale, (k, name)
    if engine == "stacked":
        check_plain(stacked, parameters, inputs, labels, weights)
    return out


def check_plain(stacked, parameters, inputs, labels, weights):
    """Without clipping: the gradient of the summed loss of each model."""
    out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
    ENGINES[EngineKind.STACKED](stacked[0], Precision.FLOAT32)(
        parameters, inputs, labels, weights, None, out
    )
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(model, inputs[k], labels[k], weights[k], math.inf)
        scale = max(float(value.abs().max()) for value in expected.values()) + 1e-8
        for name, value in expected.items():
            assert float((out[name][k] - value).abs().max()) <= 1e-5 * scale, (k, name)


@st.composite
def convolutions(draw, dimensions):
    groups = draw(st.integers(1, 3))
    inside, outside = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dimensions))
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    kernel = tuple(
        draw(st.sampled_from([1, 3] if padding == "same" else [1, 2, 3])) for _ in range(dimensions)
    )
    stride = tuple(1 if padding == "same" else draw(st.integers(1, 3)) for _ in range(dimensions))
    if padding == "numbers":
        padding = tuple(draw(st.integers(0, 2)) for _ in range(dimensions))
    size = tuple(
        d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True)
    )
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return (inside, outside, kernel), options, (inside, *size)


@drawn
@given(convolutions(2), counts)
def test_conv2d(convolution, sizes):
    arguments, options, shape = convolution
    check(lambda: Head(nn.Conv2d(*arguments, **options), 9), shape, sizes)


@drawn
@given(convolutions(1), counts)
def test_conv1d(convolution, sizes):
    arguments, options, shape = convolution
    check(lambda: Head(nn.Conv1d(*arguments, **options), 9), shape, sizes)


@drawn
@given(convolutions(2), counts)
def test_weight_standardised_conv2d(convolution, sizes):
    arguments, options, shape = convolution
    check(lambda: Head(WSConv2d(*arguments, **options), 9), shape, sizes)


@drawn
@given(
    st.lists(st.integers(1, 4), min_size=0, max_size=2), st.integers(1, 5), st.booleans(), counts
)
def test_linear_on_vectors_and_sequences(positions, features, bias, sizes):
    def make():
        return Head(
            nn.Sequential(
                nn.Linear(features, 6, bias=bias), nn.Tanh(), nn.Linear(6, 3), nn.Flatten()
            ),
            3 * 16,
        )

    check(make, (*positions, features), sizes)


@drawn
@given(st.integers(1, 6), st.booleans(), counts)
def test_embedding(length, padded, sizes):
    """Five rows, so that an example often looks up the same row again."""

    def make():
        return Head(
            nn.Sequential(nn.Embedding(5, 3, padding_idx=2 if padded else None), nn.Flatten()),
            18,
            lambda x: x.long(),
        )

    torch.manual_seed(length)
    check(make, (length,), sizes, inputs=torch.randint(0, 5, (*sizes, length)).float())


@drawn
@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 2), st.booleans(), counts)
def test_layer_norm(rows, features, dimensions, bias, sizes):
    shape = (rows, features) if dimensions else (features,)
    normalised = shape if dimensions == 2 else (features,)
    check(
        lambda: Head(
            nn.Sequential(nn.LayerNorm(normalised, bias=bias), nn.Flatten()), rows * features
        ),
        shape,
        sizes,
    )


@drawn
@given(st.sampled_from([(1, 3), (2, 4), (3, 9), (2, 6)]), st.integers(0, 2), counts)
def test_group_norm(groups, spatial, sizes):
    shape = (groups[1], *[3] * spatial)
    check(
        lambda: Head(nn.Sequential(nn.GroupNorm(*groups), nn.Flatten()), math.prod(shape)),
        shape,
        sizes,
    )


def test_inputs_that_are_not_contiguous():
    inputs = torch.randn(2, 5, 3, 2, 6, 7).permute(0, 2, 1, 3, 5, 4)
    check(lambda: Head(nn.Conv2d(2, 3, 3, 2, 1), 4), (2, 7, 6), (2, 3, 5), inputs=inputs)


class Shared(nn.Module):
    """Layers used twice in one forward pass, on inputs of two sizes, and one that is not used at
    all.
    """

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = (
            nn.Conv2d(2, 2, 3, padding=1),
            nn.GroupNorm(1, 2),
            nn.Linear(6, 6),
        )
        self.table, self.unused, self.out = (
            nn.Embedding(4, 6),
            nn.Conv2d(2, 2, 1),
            nn.Linear(6, CLASSES),
        )

    def forward(self, x):
        x = self.norm(torch.tanh(self.conv(x)))
        x = self.norm(torch.tanh(self.conv(nn.functional.avg_pool2d(x, 2))))
        index = (3 * x[:, 0, :, 0].sigmoid()).long()
        z = x.flatten(2).mean(1)[:, :6] + self.table(index).sum(1) + self.table(index[:, :1]).sum(1)
        return self.out(torch.tanh(self.linear(torch.tanh(self.linear(z)))))


class Overwriting(nn.Sequential):
    """Activations in place, which overwrite the outputs that the engine watches."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 3, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(48, CLASSES),
            nn.ELU(inplace=True),
        )


@pytest.mark.parametrize(
    "make",
    [Shared, Overwriting, lambda: Head(nn.Sequential(ResidualBlock(4, 6, 2, 2), nn.Flatten()), 54)],
)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 1), (3, 2, 3)])
def test_whole_networks(make, sizes):
    shape = (4, 6, 6) if make not in (Shared, Overwriting) else (2, 6, 6)
    check(make, shape, sizes, clip=0.2)


def test_unfolding_in_blocks(monkeypatch):
    monkeypatch.setattr("dptrain.training.gradients.rules.WINDOW_BYTES", 2000)
    check(lambda: Head(nn.Conv2d(2, 4, 3, padding=1, groups=2), 4), (2, 5, 5), (2, 5, 2))


@pytest.mark.parametrize(
    ("body", "features", "shape"),
    [
        (lambda: nn.Conv2d(2, 4, 3, 2, 1, groups=2), 4, (2, 6, 6)),
        (lambda: nn.Conv1d(2, 4, 3, padding=1, dilation=2), 4, (2, 9)),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten()), 12, (4, 5)),
        (lambda: nn.Sequential(nn.LayerNorm(5), nn.Flatten()), 20, (4, 5)),
        (lambda: nn.GroupNorm(2, 4), 4, (4, 3, 3)),
    ],
)
def test_opacus_agrees_layer_by_layer(body, features, shape):
    compare(lambda: Head(body(), features), shape)


def test_opacus_agrees_on_embeddings():
    compare(
        lambda: Head(
            nn.Sequential(nn.Embedding(4, 3), nn.Flatten()), 9, lambda x: x.long().clamp(0, 3)
        ),
        (3,),
    )


def compare(make, shape):
    ours, theirs = (
        check(make, shape, (2, 4, 2), engine=engine) for engine in ("stacked", "opacus")
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", RULES)
def test_a_wrong_rule_is_caught(layer, monkeypatch):
    """One per cent more on what its gradients are made of, and the check before every run
    answers.
    """
    made = {
        nn.Linear: (lambda: nn.Linear(5, CLASSES), (5,)),
        nn.Conv1d: (lambda: Head(nn.Conv1d(2, 4, 3), 4), (2, 9)),
        nn.Conv2d: (lambda: Head(nn.Conv2d(2, 4, 3), 4), (2, 5, 5)),
        WSConv2d: (lambda: Head(WSConv2d(2, 4, 3), 4), (2, 5, 5)),
        nn.Embedding: (
            lambda: Head(
                nn.Sequential(nn.Embedding(4, 3), nn.Flatten()), 9, lambda x: x.long().clamp(0, 3)
            ),
            (3,),
        ),
        nn.LayerNorm: (lambda: Head(nn.LayerNorm(5), 5), (5,)),
        nn.GroupNorm: (lambda: Head(nn.GroupNorm(2, 4), 4), (4, 3, 3)),
    }
    make, shape = made[layer]
    model = make()
    assert disagreement(EngineKind.STACKED, model, shape) is None
    rule = RULES[layer]

    def gradients(module, own, calls, models, batch):
        wrong = [(a, 1.01 * g) if layer is nn.Embedding else (1.01 * a, g) for a, g in calls]
        return rule.gradients(module, own, wrong, models, batch)

    monkeypatch.setitem(RULES, layer, type(rule)(rule.forward, gradients, rule.veto))
    assert "is not that of plain autograd" in disagreement(EngineKind.STACKED, model, shape)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 3e38])
def test_a_poisoned_image_leaves_no_trace(poison):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)
    )
    inputs, labels = torch.randn(1, 4, 1, 1, 6, 6), torch.zeros((1, 4), dtype=torch.int64)
    inputs[0, 2, 0, 0, 3, 3] = poison

    def total(weights):
        parameters = stack([model])
        out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
        ENGINES[EngineKind.STACKED](model, Precision.FLOAT32)(
            parameters, inputs, labels, weights, Clipper.of(Clipping.FLAT, 1.0), out
        )
        return out

    weights = torch.ones((1, 4), dtype=torch.bool)
    with_it = total(weights)
    without = total(weights & (torch.arange(4) != 2))
    for name, value in with_it.items():
        torch.testing.assert_close(value, without[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_of_one_reads_a_cut_input(layout):
    """On every processor, though oneDNN is wrong on some alone."""
    x = torch.randn(2, 4, 7, 6).contiguous(memory_format=layout)
    read, stride = rules._what_is_read(nn.Conv2d(4, 8, 1, (2, 3)), x)
    assert stride == (1, 1)
    assert torch.equal(read, x[..., ::2, ::3])
    assert read.is_contiguous(memory_format=layout)
    for other in (nn.Conv2d(4, 8, 3, 2), nn.Conv2d(4, 8, 1, 2, 1), nn.Conv2d(4, 8, 1)):
        read, stride = rules._what_is_read(other, x)
        assert read is x
        assert stride == other.stride
