"""What is checked of a module before it is trained: by name, by moving examples, and against plain autograd."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dptrain import sampling
from dptrain.clipping import CLIPPINGS, Factor, stack
from dptrain.engines import ENGINES
from dptrain.row_wise import one_by_one, row_wise
from dptrain.rules import RULES
from dptrain.types import ConfigError, first_line

SAMPLER_STEPS, SAMPLER_MEMBERS = 1000, 256
PROBED = 8
"""Rows of the population that the probe looks at."""
SEEDS = 5
"""Random batches tried until two examples have a gradient."""


def inputs(model: nn.Module, shape: Sequence[int], count: int, seed: int = 0) -> Tensor:
    """Random inputs [count, *shape] that the model takes: normal numbers or, where it looks them up in a table, zeros and ones,
    as numbers or, where it takes no others, as whole numbers.

    Raises what the model raises where it takes none of them.
    """
    drawn = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
    choices: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: (x > 0).float(), lambda x: (x > 0).long()]
    error: Exception | None = None
    was_training = model.training
    model.eval()
    try:
        for choice in choices:
            try:
                with torch.no_grad():
                    model(choice(drawn))
                return choice(drawn)
            except (IndexError, RuntimeError) as found:
                error = error if error is not None and not isinstance(error, IndexError) else found
        assert error is not None
        raise error
    finally:
        model.train(was_training)


def takes_tokens(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a model takes whole numbers only, such as one that begins with an embedding."""
    return not inputs(model, shape, 2).is_floating_point()


def _tries(model: nn.Module, shape: Sequence[int], rows: Tensor | None) -> list[tuple[Tensor, bool]]:
    """Batches [4, *shape] of several sizes and kinds, since a module may mix examples on some only, and whether the model must take it."""
    drawn = inputs(model, shape, 4)
    tries = [(drawn, True)]
    if drawn.is_floating_point():
        tries += [(0.01 * drawn, False), (100 * drawn, False), (drawn.round(), False)]
    if rows is not None:
        tries.append((rows[:PROBED].to(drawn.dtype), True))
    return tries


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with random weights in the place of the initial ones: of their own size or, where they are constant, of a usual one.

    A layer that starts at zero hides whatever stands before it.
    """
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            size = float(parameter.std(correction=0)) or (parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return other


def refuse_mixing(model: nn.Module, shape: Sequence[int], rows: Tensor | None = None) -> None:
    """Raise ConfigError if an example's output depends on the other examples of its batch, or on unkeyed randomness.

    By name, for every module, whether or not it has parameters or is frozen; then by a probe, at initial and at random weights, on
    inputs of several sizes and on `rows` [N, *shape] of the population: each example of a batch is changed in turn, and no other
    example's logits, and no buffer, may move. Clipping bounds an example's influence only if its gradient is its own (Opacus issue
    308), and stacked models share a batch even without privacy. The probe is for the user; what the bound rests on is that a module
    which is not known to be row-wise is never given a batch (row_wise).
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in type(module).__name__:
            raise ConfigError("model.name", f"layer {path!r} is {type(module).__name__}, which mixes examples; use GroupNorm or LayerNorm")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ConfigError("model.name", f"layer {path!r} is {type(module).__name__}, whose draws no key covers; remove it")
    try:
        tries = _tries(model, shape, rows)
    except Exception as error:
        raise ConfigError("model.name", f"the model fails on inputs of shape {list(shape)} ({first_line(error)})") from None
    model.train()
    known = row_wise(model)  # then one look will do, for what a list cannot hold, such as a batch in a wrong dimension
    for weights in (model,) if known else (model, randomised(model)):
        for batch, needed in tries[:1] if known else tries:
            for double in (True, False):
                try:
                    probed = copy.deepcopy(weights)
                    probed = probed.double() if double else probed
                    _refuse_mixing_on(probed, batch.double() if double and batch.is_floating_point() else batch, double)
                    break
                except ConfigError:
                    raise
                except Exception as error:  # some modules compute in float32 only
                    if not double and needed:
                        raise ConfigError("model.name", f"the model fails on inputs of shape {list(shape)} ({first_line(error)})") from None


def _refuse_mixing_on(model: nn.Module, batch: Tensor, double: bool) -> None:
    """The probe at one set of weights on one batch. In float64 rounding is far below what any mixing comes to."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = [dict(vars(module)) for module in model.modules()]
    other = batch.flip(0)  # rows that the model is known to take

    def same(first: Tensor, second: Tensor) -> bool:
        size = first.abs().nan_to_num(0, 0, 0).amax() if first.is_floating_point() else 1.0
        relative = 1e-8 if double else 1e-3
        return torch.allclose(first, second, rtol=relative, atol=float(relative * size), equal_nan=True)

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = model(batch)
        torch.manual_seed(1)
        if not torch.equal(first.nan_to_num(), model(batch).nan_to_num()):
            raise ConfigError("model.name", "the output is random, and no key covers its draws; remove the layer that draws")
        for changed in range(len(batch)):
            others = torch.arange(len(batch)) != changed
            second = model(torch.where(_column(others, batch), batch, other))
            if not same(first[others], second[others]):
                raise ConfigError(
                    "model.name", "the output for one example depends on the others in its batch; remove the layer that mixes them"
                )
        alone = torch.cat([model(example[None]) for example in batch])
        if not same(first, alone):
            raise ConfigError(
                "model.name", "the output for an example depends on how many others are in its batch, or on its place; mend it"
            )
        if not row_wise(model) and not same(_each_alone(model, batch), alone):
            raise ConfigError("model.name", "the model says something else where it runs one example at a time (torch.func.vmap); mend it")
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            raise ConfigError("model.name", f"{name!r} is updated from the data without noise; remove it")
    for module, attributes in zip(model.modules(), held, strict=True):
        now = vars(module)
        for name in now.keys() | attributes.keys():
            if now.get(name) is not attributes.get(name) and now.get(name) != attributes.get(name):
                raise ConfigError("model.name", f"{type(module).__name__} changes its attribute {name!r} when it is called; remove that")


def _each_alone(model: nn.Module, batch: Tensor) -> Tensor:
    """Logits with one example a call. Raises ConfigError where the model cannot run so."""
    try:
        return one_by_one(model)(batch)
    except Exception as error:
        what = "the model cannot be run one example at a time, which keeps those of a batch apart"
        raise ConfigError("model.name", f"{what} ({first_line(error)}); let it not decide by values, nor change itself") from None


def refuse_sampler(batch_size: int, public_n: int) -> None:
    """Raise ConfigError unless the batches of this installation are Poisson, which the accountant takes for granted: each example in a batch by a
    coin of its own, so that sizes vary as a binomial's, and none but members. Limits of six standard errors, and a fixed seed: it passes or
    fails once for each pair of numbers."""
    q, steps, member = batch_size / public_n, SAMPLER_STEPS, np.arange(2 * SAMPLER_MEMBERS) % 2 == 0
    key = sampling.seeded_key(0, "probe")
    batches = [sampling.poisson(key, step, member, batch_size, public_n) for step in range(steps)]
    sizes = np.array([len(batch) for batch in batches])
    mean, variance = SAMPLER_MEMBERS * q, SAMPLER_MEMBERS * q * (1 - q)
    off = abs(sizes.mean() - mean) / math.sqrt(variance / steps + 1e-30)
    spread = abs(sizes.var() / variance - 1) / math.sqrt((2 + 1 / variance) / steps) if variance else 0.0
    if off > 6 or spread > 6 or not all(member[batch].all() and len(np.unique(batch)) == len(batch) for batch in batches):
        told = f"mean size {sizes.mean():.2f} for {mean:.2f}, variance {sizes.var():.2f} for {variance:.2f}"
        raise ConfigError("training.batch_size", f"batches are not Poisson ({told}): no epsilon holds; reinstall dptrain")


def _column(flags: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return flags.view(-1, *[1] * (values.dim() - 1))


def unsupported(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why the stacked engine cannot train this module, or None if it can."""
    layers = [(path, module) for path, module in model.named_modules() if list(module.parameters(recurse=False))]
    for path, module in layers:
        if type(module) not in RULES:
            return f"layer {path!r} is {type(module).__name__}, which has no closed form"
        if reason := RULES[type(module)].veto(module):
            return f"layer {path!r} ({type(module).__name__}) {reason}"
        if not all(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            return f"layer {path!r} has frozen parameters"
        if not {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}:
            return f"layer {path!r} has parameters of its own"
    if len({id(p) for p in model.parameters()}) != sum(1 for _ in model.named_parameters(remove_duplicate=False)):
        return "parameters are shared between layers"
    odd, hooks = [], []
    for path, module in layers:

        def check(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor, path: str = path) -> None:
            if not inputs or inputs[0].dim() < 2 or len(inputs[0]) != 2:
                odd.append(path)

        hooks.append(module.register_forward_hook(check))
    try:
        with torch.no_grad():
            model(inputs(model, shape, 2))
    finally:
        for hook in hooks:
            hook.remove()
    return f"layer {odd[0]!r} is called on an input that is not [batch, ...]" if odd else None


def disagreement(engine: str, model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why an engine's sum on a small random batch, clipped or not, is not that of plain autograd, one example at a time; None if it is.

    Catches what no rule can know of, such as a layer's weight used a second time by a function. The engine is made of the initial
    model and asked about other weights too, since it must read none but those it is given. In float64, where a deep network's
    activations do not change sides of zero with the order of a sum; in float32 for a module that cannot do so.
    """
    for weights in (model, randomised(model)):
        try:
            found = _disagreement(engine, copy.deepcopy(model).double(), copy.deepcopy(weights).double(), shape, 1e-5)
        except Exception:
            try:
                found = _disagreement(engine, copy.deepcopy(model), copy.deepcopy(weights), shape, 2e-2)
            except Exception as error:
                return f"the {engine} engine fails on it ({first_line(error)})"
        if found:
            return found
    return None


def _disagreement(engine: str, model: nn.Module, weighted: nn.Module, shape: tuple[int, ...], tolerance: float) -> str | None:
    """model: as it was built; weighted: the same with the weights to compare at."""
    dtype = next(model.parameters()).dtype
    examples, views = 3, 2
    for seed in range(SEEDS):
        drawn = inputs(copy.deepcopy(weighted).float(), shape, examples * views, seed)
        batch = (drawn.to(dtype) if drawn.is_floating_point() else drawn).unflatten(0, (examples, views))
        gradients, labels = _gradients(weighted, batch)
        norms = [float(torch.stack([value.norm() for value in own.values()]).norm()) for own in gradients]
        positive = [norm for norm in norms if norm > 0]
        if len(positive) > 1:
            break
    else:
        return f"the {engine} engine cannot be checked: gradients on random inputs are zero"
    clip = min(positive) / 2  # every example with a gradient is clipped, so a wrong norm shows as a wrong sum
    factors = [clip / norm if norm > 0 else 0.0 for norm in norms]

    def clipped(found: Tensor) -> Tensor:
        return CLIPPINGS["flat"](found, clip)

    cases: list[tuple[Factor | None, list[float]]] = [(clipped, factors), (None, [1.0] * examples)]
    parameters = stack([weighted])
    for factor, scales in cases:
        found = {name: torch.zeros_like(value) for name, value in parameters.items()}
        weights = torch.ones(1, examples, dtype=torch.bool)
        ENGINES[engine](model, "float32")(parameters, batch[None], labels[None], weights, factor, found)
        for name, value in found.items():
            expected = sum(scale * own[name] for scale, own in zip(scales, gradients, strict=True))
            assert isinstance(expected, Tensor)
            if float((value[0] - expected).norm()) > tolerance * max(float(expected.norm()), 1e-3 * clip):
                return f"the {engine} engine's gradient of {name!r} is not that of plain autograd"
    return None


def _gradients(model: nn.Module, batch: Tensor) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Gradients of each example of [B, V, *shape] by plain autograd, mean over its views, and the labels they are for."""
    own = copy.deepcopy(model)
    with torch.no_grad():
        labels = torch.arange(len(batch)).remainder(own(batch[0]).shape[-1])
    found = []
    for views, label in zip(batch, labels, strict=True):
        own.zero_grad()
        nn.functional.cross_entropy(own(views), label.expand(len(views))).backward()
        found.append({name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in own.named_parameters()})
    return found, labels
