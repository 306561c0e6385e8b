"""MODELS: ordinary nn.Module classifiers without layers that mix examples, and the check that they
do not.

A builder takes the shape of one input and the number of classes, then its own options as keywords,
and returns a module that maps [B, *shape] to logits [B, classes].
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dptrain.core import plugins
from dptrain.core.errors import ModelError, first_line
from dptrain.models.layers import OnFeatures, ResidualBlock, Scattering, WSConv2d
from dptrain.models.row_wise import one_by_one, row_wise

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def logistic(shape: Sequence[int], classes: int) -> nn.Module:
    """Softmax regression on the flattened input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def _activation(name: str) -> type[nn.Module]:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(
            f"unknown activation {name!r}; choose from {', '.join(ACTIVATIONS)}", "activation"
        )
    return ACTIVATIONS[name]


def mlp(
    shape: Sequence[int], classes: int, hidden: Sequence[int] = (128,), activation: str = "tanh"
) -> nn.Module:
    """Multi-layer perceptron; tanh bounds activations, which suits clipped gradients (Papernot et
    al. 2021).
    """
    unit = _activation(activation)
    if (
        not isinstance(hidden, Sequence)
        or not hidden
        or any(type(width) is not int or width < 1 for width in hidden)
    ):
        raise ModelError(
            f"must be a list of positive widths such as [128], got {hidden!r}", "hidden"
        )
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), unit()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _images(shape: Sequence[int], least: int, name: str) -> Sequence[int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ModelError(
            f"{name} takes images [channels, height, width] of at least {least} x "
            f"{least}, not {list(shape)}; use mlp"
        )
    return shape


def cnn(shape: Sequence[int], classes: int, activation: str = "tanh") -> nn.Module:
    """The 16-32 CNN of Papernot et al. 2021 (table 1) and Tramer and Boneh 2021; with relu it is
    Opacus's MNIST example.
    """
    channels, height, width = _images(shape, 14, "cnn")
    unit = _activation(activation)
    body = nn.Sequential(
        *(nn.Conv2d(channels, 16, 8, 2, 3), unit(), nn.MaxPool2d(2, 1)),
        *(nn.Conv2d(16, 32, 4, 2), unit(), nn.MaxPool2d(2, 1), nn.Flatten()),
    )
    with torch.no_grad():
        flat = body(torch.zeros(1, channels, height, width)).shape[1]
    return nn.Sequential(*body, nn.Linear(flat, 32), unit(), nn.Linear(32, classes))


def resnet(
    shape: Sequence[int], classes: int, depth: int = 16, width: int = 1, groups: int = 16
) -> nn.Module:
    """Wide residual network with group norm and weight standardisation instead of batch norm (De et
    al. 2022, section 3).
    """
    for key, value in (("depth", depth), ("width", width), ("groups", groups)):
        if type(value) is not int or value < 1:
            raise ModelError(f"must be a whole number above 0, got {value!r}", f"{key}")
    if depth < 10 or (depth - 4) % 6:
        raise ModelError(f"must be 4 + 6 k with k >= 1, such as 10, 16 or 40, got {depth}", "depth")
    if groups > 16 or 16 % groups:
        raise ModelError(f"must divide 16, got {groups}", "groups")
    channels, _, _ = _images(shape, 8, "resnet")
    widths = [16, 16 * width, 32 * width, 64 * width]
    layers: list[nn.Module] = [WSConv2d(channels, widths[0], 3, padding=1, bias=False)]
    for stage, (inside, outside) in enumerate(itertools.pairwise(widths)):
        for block in range((depth - 4) // 6):
            layers.append(
                ResidualBlock(
                    outside if block else inside, outside, 2 if stage and not block else 1, groups
                )
            )
    pooled = (nn.GroupNorm(groups, widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *pooled, nn.Linear(widths[-1], classes))


def wrn16_4(shape: Sequence[int], classes: int) -> nn.Module:
    """WRN-16-4, the smaller network of De et al. 2022: 2.7 million parameters."""
    return resnet(shape, classes, depth=16, width=4)


def scatter_linear(shape: Sequence[int], classes: int) -> nn.Module:
    """Softmax regression on scattering coefficients, normalised in groups within each example
    (Tramer and Boneh 2021, section 3).
    """
    channels, height, width = _images(shape, 16, "scatter_linear")
    try:
        scattering = Scattering(height, width)
    except ImportError:
        raise ModelError(
            "scatter_linear needs kymatio; pip install 'dptrain[scattering]'"
        ) from None
    wavelets = 81 * channels
    features = nn.Sequential(
        scattering, nn.GroupNorm(27 * channels, wavelets, affine=False), nn.Flatten()
    )
    return OnFeatures(features, nn.Linear(wavelets * (height // 4) * (width // 4), classes))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "wrn16_4": wrn16_4,
    "scatter_linear": scatter_linear,
}
"""A program may add its own builder before it calls the sweep; a package does so by the entry point
group `dptrain.models`.
"""


_BUILT_IN = dict(MODELS)


def features(model: nn.Module) -> nn.Module | None:
    """The part of a model that is computed once and not trained, if it has one."""
    return model.features if isinstance(model, OnFeatures) else None


def trained(model: nn.Module) -> nn.Module:
    """The part of a model that is trained."""
    return model.head if isinstance(model, OnFeatures) else model


def trained_shape(model: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one input of the trained part."""
    frozen = features(model)
    return (
        tuple(shape) if frozen is None else tuple(apply(frozen, torch.zeros((1, *shape))).shape[1:])
    )


@torch.no_grad()
def apply(frozen: nn.Module, inputs: Shaped[Tensor, "N ..."]) -> Tensor:
    """Features [N, ...] of inputs [N, *shape], each of its own input alone."""
    each = frozen if row_wise(frozen) else one_by_one(frozen)
    return torch.cat([each(block) for block in inputs.split(256)])


def names() -> list[str]:
    """Of MODELS and of those that installed packages add through the entry point group
    `dptrain.models`.
    """
    return plugins.known("models", MODELS)


def known_elsewhere(name: str) -> bool:
    """Whether another process finds the model too: one that a program has added to MODELS lives in
    that program only.
    """
    if name in MODELS:
        return is_ours(name)
    return name in plugins.names("models")


def is_ours(name: str) -> bool:
    """Whether the name stands for a model of this package."""
    return name in _BUILT_IN and MODELS.get(name) is _BUILT_IN[name]


def code_of(name: str, model: nn.Module) -> str:
    """What changes with the code of a model that is not ours: of its builder, of the classes of its
    parts and of functions that they hold.
    """
    if is_ours(name):
        return ""
    held = [
        value
        for part in model.modules()
        for value in vars(part).values()
        if isinstance(value, FunctionType)
    ]
    classes = sorted({type(part) for part in model.modules()}, key=lambda kind: kind.__qualname__)
    return "\n".join(
        [
            plugins.code_of(plugins.find("models", MODELS, name)),
            *map(plugins.code_of, classes),
            *map(plugins.code_of, held),
        ]
    )


def build(
    name: str, options: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int = 0
) -> nn.Module:
    """A freshly initialised model, a function of `seed` alone. Raises ModelError for an unknown
    name or option.
    """
    if name not in names():
        raise ModelError(f"unknown model {name!r}; choose from {', '.join(sorted(names()))}")
    builder = plugins.find("models", MODELS, name)
    allowed = list(inspect.signature(builder).parameters)[2:]
    for option in options:
        if option not in allowed:
            raise ModelError(
                f"{name} has no such option; it takes {', '.join(allowed) or 'none'}", f"{option}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return builder(shape, classes, **options)
        except (TypeError, RuntimeError, MemoryError) as error:
            raise ModelError(
                f"{name} cannot be built: {first_line(error)}; check its options"
            ) from None
