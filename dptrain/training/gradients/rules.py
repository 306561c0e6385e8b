"""RULES: per-example gradients of K stacked models in closed form, one row a layer type.

K models see B examples each, in V views: everything that flows through the network is [K*B*V, ...],
and a layer's own parameters are [K, *shape]. From the input a of every call of a layer and the
gradient g at its output, a rule makes each example's parameter gradient, summed over views,
positions and calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dptrain.models.layers import WSConv2d
from dptrain.training.gradients.terms import Dense, Outer, Rows, Term, wide

WINDOW_BYTES = 32 * 2**20
"""Unfolded inputs of a convolution in memory at once; about a last-level cache."""

Parameters = Mapping[str, Tensor]
Call = tuple[Tensor, Tensor]
"""What a layer's forward saved, and the gradient at its output; [K*B*V, ...] both."""


@dataclass(frozen=True)
class Rule:
    """How one layer type runs on a stack, and its per-example gradients.

    forward: (layer, own, x [K*B*V, ...]) -> output, and what the gradients need of the input.
    gradients: (layer, own, calls, K, B) -> a Term for each parameter, by name.
    veto: (layer) -> why this layer of the type has no closed form, or None.
    """

    forward: Callable[[Any, Parameters, Tensor], tuple[Tensor, Tensor]]
    gradients: Callable[[Any, Parameters, Sequence[Call], int, int], dict[str, Term]]
    veto: Callable[[Any], str | None] = lambda _layer: None


def _linear_forward(
    layer: nn.Linear, parameters: Parameters, x: Float[Tensor, "n ..."]
) -> tuple[Tensor, Tensor]:
    models, weight = len(parameters["weight"]), parameters["weight"].transpose(1, 2)
    a = x.reshape(models, -1, x.shape[-1])
    z = (
        torch.baddbmm(parameters["bias"][:, None], a, weight)
        if "bias" in parameters
        else torch.bmm(a, weight)
    )
    return z.view(*x.shape[:-1], -1), x


def _linear(
    layer: nn.Linear, parameters: Parameters, calls: Sequence[Call], models: int, batch: int
) -> dict[str, Term]:
    a, g = _positions(calls, models, batch)
    if a.shape[2] == 1:
        weight: Term = Outer(a[:, :, 0], g[:, :, 0])
    else:
        weight = Dense(torch.matmul(g.transpose(2, 3), a))
    return _with_bias(weight, parameters, g)


def _positions(calls: Sequence[Call], models: int, batch: int) -> tuple[Tensor, Tensor]:
    """All calls as [K, B, T, features], T running over calls, views and positions."""

    def flat(part: Shaped[Tensor, " ..."]) -> Tensor:
        return wide(part).reshape(models, batch, -1, part.shape[-1])

    inputs, slopes = [flat(a) for a, _ in calls], [flat(g) for _, g in calls]
    if len(calls) == 1:
        return inputs[0], slopes[0]
    return torch.cat(inputs, 2), torch.cat(slopes, 2)


def _with_bias(
    weight: Term, parameters: Parameters, g: Float[Tensor, "K B T out"]
) -> dict[str, Term]:
    """g [K, B, T, O]: the bias is added at every position."""
    return (
        {"weight": weight, "bias": Dense(g[:, :, 0] if g.shape[2] == 1 else g.sum(2))}
        if "bias" in parameters
        else {"weight": weight}
    )


def _conv_forward(
    layer: nn.Conv1d | nn.Conv2d, parameters: Parameters, x: Float[Tensor, "n C ..."]
) -> tuple[Tensor, Tensor]:
    convolve = functional.conv1d if isinstance(layer, nn.Conv1d) else functional.conv2d
    bias = parameters.get("bias", [None] * len(parameters["weight"]))
    read, stride = _what_is_read(layer, x)
    # One by one: convolutions are large enough to fill a CPU, and grouped ones are slow on it.
    outputs = [
        convolve(part, _like(w, part), b, stride, layer.padding, layer.dilation, layer.groups)
        for part, w, b in zip(
            read.chunk(len(parameters["weight"])), parameters["weight"], bias, strict=True
        )
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), x


def _what_is_read(
    layer: nn.Conv1d | nn.Conv2d, x: Float[Tensor, "n C ..."]
) -> tuple[Tensor, tuple[int, ...]]:
    """What a convolution reads of x, and the stride that is then left.

    A kernel of 1 reads each stride-th position, which is cut out here: oneDNN's gradient of such a
    weight writes beyond its memory, and is wrong, on processors without AVX-512 where an image has
    channels last and fewer than 8 of them (oneDNN issue 6035; torch 2.13).
    """
    unpadded = layer.padding == "valid" or not any(layer.padding)
    if max(layer.kernel_size) > 1 or max(layer.stride) == 1 or not unpadded:
        return x, layer.stride
    for dim, stride in enumerate(layer.stride, start=2):
        x = x[(slice(None),) * dim + (slice(None, None, stride),)]
    return x.clone(), (1,) * len(layer.stride)


def _like(weight: Float[Tensor, "K ..."], x: Float[Tensor, "n ..."]) -> Tensor:
    """With one channel both layouts have the same strides, and then the weight decides the layout
    of the output.
    """
    return (
        weight.contiguous(memory_format=torch.channels_last)
        if x.dim() == 4 and not x.is_contiguous()
        else weight
    )


def _conv(
    layer: nn.Conv1d | nn.Conv2d,
    parameters: Parameters,
    calls: Sequence[Call],
    models: int,
    batch: int,
) -> dict[str, Term]:
    shape = (layer.out_channels, *_two(layer.kernel_size), layer.in_channels // layer.groups)
    examples, groups = models * batch, layer.groups
    outputs = [_channels_last(wide(g)) for _, g in calls]
    samples = outputs[0].new_empty((examples, *shape))
    by_group = samples.view(examples, groups, shape[0] // groups, -1)
    for number, ((a, _), g) in enumerate(zip(calls, outputs, strict=True)):
        views = len(a) // examples
        # [E, G, O/G, V*L].
        g = g.reshape(examples, -1, groups, shape[0] // groups).permute(0, 2, 3, 1)
        block = max(
            1, WINDOW_BYTES // (4 * math.prod(g.shape[1:]) // g.shape[2] * by_group.shape[-1])
        )
        for start in range(0, examples, block):
            stop = min(start + block, examples)
            windows = _windows(layer, a[start * views : stop * views], stop - start)
            part = by_group[start:stop].flatten(0, 1)
            torch.baddbmm(
                part,
                g[start:stop].flatten(0, 1),
                windows.flatten(0, 1),
                beta=0 if number == 0 else 1,
                out=part,
            )

    def arrange(total: Float[Tensor, " ..."]) -> Tensor:
        """[K, O, kh, kw, C] -> the weight's [K, O, C, kh, kw] or [K, O, C, k]."""
        moved = total.movedim(-1, 2)
        return moved.squeeze(3) if isinstance(layer, nn.Conv1d) else moved

    positions = [g.reshape(models, batch, -1, shape[0]) for g in outputs]
    return _with_bias(
        Dense(samples.view(models, batch, *shape), arrange),
        parameters,
        positions[0] if len(positions) == 1 else torch.cat(positions, 2),
    )


def _two(values: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (2 - len(values)) + tuple(values)


def _channels_last(values: Float[Tensor, "n C ..."]) -> Tensor:
    """[n, C, *spatial] -> [n, H, W, C] without a copy if it lies so in memory."""
    return (values if values.dim() == 4 else values.unsqueeze(2)).permute(0, 2, 3, 1)


def _windows(layer: nn.Conv1d | nn.Conv2d, a: Float[Tensor, "n C ..."], examples: int) -> Tensor:
    """What each output position sees: [examples, G, V*L, kh*kw*C/G].

    A strided view copied once. Channels come last, so that one row of a window is one run of memory
    (three times as fast as unfold).
    """
    padded = functional.pad(wide(a), layer._reversed_padding_repeated_twice)
    x = _channels_last(padded).contiguous()
    kernel, stride, dilation = (
        _two(value) for value in (layer.kernel_size, layer.stride, layer.dilation)
    )
    height, width = (
        (x.shape[1 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    groups, channels = layer.groups, layer.in_channels // layer.groups
    n, row, column, _ = x.stride()
    view = x.as_strided(
        (examples, groups, len(a) // examples, height, width, *kernel, channels),
        (
            n * (len(a) // examples),
            channels,
            n,
            stride[0] * row,
            stride[1] * column,
            dilation[0] * row,
            dilation[1] * column,
            1,
        ),
    )
    return view.reshape(examples, groups, -1, math.prod(kernel) * channels)


def _conv_veto(layer: nn.Conv1d | nn.Conv2d) -> str | None:
    return None if layer.padding_mode == "zeros" else f"has padding_mode={layer.padding_mode!r}"


def _ws_forward(
    layer: WSConv2d, parameters: Parameters, x: Float[Tensor, "n C ..."]
) -> tuple[Tensor, Tensor]:
    weight = WSConv2d.standardise(parameters["weight"].flatten(2))[0].view_as(parameters["weight"])
    return _conv_forward(layer, {**parameters, "weight": weight}, x)


def _ws(
    layer: WSConv2d, parameters: Parameters, calls: Sequence[Call], models: int, batch: int
) -> dict[str, Term]:
    """The chain rule through the standardisation w = s c, c = v - mean(v), s = (|c|^2 +
    eps)^(-1/2), an example at a time: with d the gradient at w, the gradient at v is s (d - mean(d)
    - w <w, d>).
    """
    terms = _conv(layer, parameters, calls, models, batch)
    weight = terms["weight"]
    assert isinstance(weight, Dense)
    order = parameters["weight"].movedim(2, -1)  # [K, O, kh, kw, C], as the samples
    w, scale = WSConv2d.standardise(order.flatten(2))
    w, scale, d = w[:, None], scale[:, None], weight.samples.flatten(3)
    along = torch.matmul(d.unsqueeze(-2), w.unsqueeze(-1))[..., 0]
    d.sub_(d.mean(-1, keepdim=True)).addcmul_(w, along, value=-1).mul_(scale)
    return terms


def _normalised(
    normalise: Callable[[Any, Tensor], Tensor], trailing: Callable[[Any, Tensor], int]
) -> Rule:
    """Rule of a layer that normalises each example and then multiplies by a weight and adds a bias;
    `trailing` dimensions of the input lie behind the weight's.
    """

    def spread(value: Float[Tensor, " ..."], x: Float[Tensor, " ..."], behind: int) -> Tensor:
        """[K, *shape] beside x.view(K, -1, ...)."""
        front = x.dim() + 1 - value.dim() - behind
        return value.view(len(value), *[1] * front, *value.shape[1:], *[1] * behind)

    def forward(
        layer: Any, parameters: Parameters, x: Float[Tensor, "n ..."]
    ) -> tuple[Tensor, Tensor]:
        n, behind = normalise(layer, x), trailing(layer, x)
        models = len(parameters["weight"])
        z = n.unflatten(0, (models, -1)) * spread(parameters["weight"], n, behind)
        if "bias" in parameters:
            z = z + spread(parameters["bias"], n, behind)
        return z.flatten(0, 1), n

    def gradients(
        layer: Any, parameters: Parameters, calls: Sequence[Call], models: int, batch: int
    ) -> dict[str, Term]:
        shape = parameters["weight"].shape[1:]

        def summed(values: Float[Tensor, " ..."]) -> Tensor:
            behind = trailing(layer, values)
            if behind:
                values = values.sum(tuple(range(values.dim() - behind, values.dim())))
            return wide(values).reshape(models, batch, -1, *shape).sum(2)

        weight = torch.stack([summed(n * g) for n, g in calls]).sum(0)
        bias = torch.stack([summed(g) for _, g in calls]).sum(0)
        return (
            {"weight": Dense(weight), "bias": Dense(bias)}
            if "bias" in parameters
            else {"weight": Dense(weight)}
        )

    return Rule(forward, gradients)


def _embedding_forward(
    layer: nn.Embedding, parameters: Parameters, x: Shaped[Tensor, "n ..."]
) -> tuple[Tensor, Tensor]:
    models, rows, _ = parameters["weight"].shape
    offset = torch.arange(models, device=x.device).view(-1, *[1] * x.dim()) * rows
    index = x.unflatten(0, (models, -1)) + offset
    z = functional.embedding(index, parameters["weight"].flatten(0, 1)).flatten(0, 1)
    if layer.padding_idx is not None:
        z = torch.where((x == layer.padding_idx)[..., None], z.detach(), z)
    return z, x


def _embedding(
    layer: nn.Embedding, parameters: Parameters, calls: Sequence[Call], models: int, batch: int
) -> dict[str, Term]:
    index = torch.cat([x.reshape(models * batch, -1) for x, _ in calls], 1)
    g = torch.cat([wide(g).reshape(models * batch, -1, g.shape[-1]) for _, g in calls], 1)
    if layer.padding_idx is not None:
        g = g * (index != layer.padding_idx)[..., None]
    # A row that an example looks up twice gets the sum, so equal indices are brought together
    # first.
    index, order = index.sort(1)
    first = torch.ones_like(index, dtype=torch.bool)
    first[:, 1:] = index[:, 1:] != index[:, :-1]
    slot = first.cumsum(1) - 1
    g = g.gather(1, order[..., None].expand_as(g))
    values = torch.zeros_like(g).scatter_add_(1, slot[..., None].expand_as(g), g)
    rows = torch.zeros_like(index).scatter_(1, slot, index)
    return {
        "weight": Rows(rows.view(models, batch, -1), values.view(models, batch, *values.shape[1:]))
    }


def _embedding_veto(layer: nn.Embedding) -> str | None:
    odd = [name for name in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(layer, name)]
    return f"has {odd[0]}" if odd else None


def _layer_norm(layer: nn.LayerNorm, x: Float[Tensor, "n ..."]) -> Tensor:
    return functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)


def _group_norm(layer: nn.GroupNorm, x: Float[Tensor, "n ..."]) -> Tensor:
    return functional.group_norm(x, layer.num_groups, eps=layer.eps)


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: Rule(_linear_forward, _linear),
    nn.Conv1d: Rule(_conv_forward, _conv, _conv_veto),
    nn.Conv2d: Rule(_conv_forward, _conv, _conv_veto),
    WSConv2d: Rule(_ws_forward, _ws, _conv_veto),
    nn.Embedding: Rule(_embedding_forward, _embedding, _embedding_veto),
    nn.LayerNorm: _normalised(_layer_norm, lambda _layer, _x: 0),
    nn.GroupNorm: _normalised(_group_norm, lambda _layer, x: x.dim() - 2),
}
