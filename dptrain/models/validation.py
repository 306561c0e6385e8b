"""What is checked of a module before it is trained: by name, and by moving examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from dptrain.core.errors import ModelError, first_line
from dptrain.models.row_wise import one_by_one, row_wise

PROBED = 8
"""Rows of the population that the probe looks at."""


def inputs(model: nn.Module, shape: Sequence[int], count: int, seed: int = 0) -> Tensor:
    """Random inputs [count, *shape] that the model takes: normal numbers or, where it looks them up
    in a table, zeros and ones, as numbers or, where it takes no others, as whole numbers.

    Raises what the model raises where it takes none of them.
    """
    drawn = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
    choices: list[Callable[[Tensor], Tensor]] = [
        lambda x: x,
        lambda x: (x > 0).float(),
        lambda x: (x > 0).long(),
    ]
    error: Exception | None = None
    was_training = model.training
    model.eval()
    try:
        for choice in choices:
            try:
                with torch.no_grad():
                    model(choice(drawn))
                return choice(drawn)
            except (IndexError, RuntimeError) as failure:
                error = (
                    error if error is not None and not isinstance(error, IndexError) else failure
                )
        assert error is not None
        raise error
    finally:
        model.train(was_training)


def takes_tokens(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a model takes whole numbers only, such as one that begins with an embedding."""
    return not inputs(model, shape, 2).is_floating_point()


def _tries(
    model: nn.Module, shape: Sequence[int], rows: Shaped[Tensor, "N ..."] | None
) -> list[tuple[Tensor, bool]]:
    """Batches [4, *shape] of several sizes and kinds, since a module may mix examples on some only,
    and whether the model must take it.
    """
    drawn = inputs(model, shape, 4)
    tries = [(drawn, True)]
    if drawn.is_floating_point():
        tries += [(0.01 * drawn, False), (100 * drawn, False), (drawn.round(), False)]
    if rows is not None:
        tries.append((rows[:PROBED].to(drawn.dtype), True))
    return tries


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with random weights in the place of the initial ones: of their own size or, where they
    are constant, of a usual one.

    A layer that starts at zero hides whatever stands before it.
    """
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            size = float(parameter.std(correction=0)) or (
                parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            )
            parameter.add_(
                size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            )
    return other


def refuse_mixing(
    model: nn.Module, shape: Sequence[int], rows: Shaped[Tensor, "N ..."] | None = None
) -> None:
    """Raise ModelError if an example's output depends on the other examples of its batch, or on
    unkeyed randomness.

    By name, for every module, whether or not it has parameters or is frozen; then by a probe, at
    initial and at random weights, on inputs of several sizes and on `rows` [N, *shape] of the
    population: each example of a batch is changed in turn, and no other example's logits, and no
    buffer, may move. Clipping bounds an example's influence only if its gradient is its own (Opacus
    issue 308), and stacked models share a batch even without privacy. The probe is for the user;
    what the bound rests on is that a module which is not known to be row-wise is never given a
    batch (row_wise).
    """
    _refuse_by_name(model)
    wrong_shape = f"the model fails on inputs of shape {list(shape)}"
    try:
        tries = _tries(model, shape, rows)
    except Exception as error:
        raise ModelError(f"{wrong_shape} ({first_line(error)})") from None
    model.train()
    # Then one look will do, for what a list cannot hold, such as a batch in a wrong dimension.
    known = row_wise(model)
    for weights in (model,) if known else (model, randomised(model)):
        for batch, needed in tries[:1] if known else tries:
            failure = _try(weights, batch)
            if failure is not None and needed:
                raise ModelError(f"{wrong_shape} ({first_line(failure)})") from None


def _refuse_by_name(model: nn.Module) -> None:
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in kind:
            fix = "use GroupNorm or LayerNorm"
            raise ModelError(f"layer {path!r} is {kind}, which mixes examples; {fix}")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ModelError(f"layer {path!r} is {kind}, whose draws no key covers; remove it")


def _try(weights: nn.Module, batch: Shaped[Tensor, "B ..."]) -> Exception | None:
    """The probe in float64, or in float32 for a module that computes in nothing else; what the
    module itself raises there. Raises ModelError.
    """
    wide = batch.double() if batch.is_floating_point() else batch
    for probed, seen, double in (
        (copy.deepcopy(weights).double, wide, True),
        (lambda: copy.deepcopy(weights), batch, False),
    ):
        try:
            _refuse_mixing_on(probed(), seen, double)
            return None
        except ModelError:
            raise
        except Exception as error:
            failure = error
    return failure


def _refuse_mixing_on(model: nn.Module, batch: Shaped[Tensor, "B ..."], double: bool) -> None:
    """The probe at one set of weights on one batch. In float64 rounding is far below what any
    mixing comes to.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = [dict(vars(module)) for module in model.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _refuse_moved_outputs(model, batch, 1e-8 if double else 1e-3)
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            raise ModelError(f"{name!r} is updated from the data without noise; remove it")
    for module, attributes in zip(model.modules(), held, strict=True):
        now = vars(module)
        for name in now.keys() | attributes.keys():
            if now.get(name) is not attributes.get(name) and now.get(name) != attributes.get(name):
                what = f"{type(module).__name__} changes its attribute {name!r}"
                raise ModelError(f"{what} when it is called; remove that")


def _refuse_moved_outputs(
    model: nn.Module, batch: Shaped[Tensor, "B ..."], relative: float
) -> None:
    """Move each example of a batch in turn, and compare with each example alone."""
    torch.manual_seed(0)
    first = model(batch)
    torch.manual_seed(1)
    if not torch.equal(first.nan_to_num(), model(batch).nan_to_num()):
        fix = "no key covers its draws; remove the layer that draws"
        raise ModelError(f"the output is random, and {fix}")
    other = batch.flip(0)  # rows that the model is known to take
    for changed in range(len(batch)):
        others = torch.arange(len(batch)) != changed
        second = model(torch.where(_column(others, batch), batch, other))
        if not _same(first[others], second[others], relative):
            fix = "remove the layer that mixes them"
            raise ModelError(
                f"the output for one example depends on the others in its batch; {fix}"
            )
    alone = torch.cat([model(example[None]) for example in batch])
    if not _same(first, alone, relative):
        what = "depends on how many others are in its batch, or on its place; mend it"
        raise ModelError(f"the output for an example {what}")
    if not row_wise(model) and not _same(_each_alone(model, batch), alone, relative):
        what = "where it runs one example at a time (torch.func.vmap); mend it"
        raise ModelError(f"the model says something else {what}")


def _same(first: Shaped[Tensor, " ..."], second: Shaped[Tensor, " ..."], relative: float) -> bool:
    size = first.abs().nan_to_num(0, 0, 0).amax() if first.is_floating_point() else 1.0
    return torch.allclose(first, second, rtol=relative, atol=float(relative * size), equal_nan=True)


def _each_alone(model: nn.Module, batch: Shaped[Tensor, "B ..."]) -> Tensor:
    """Logits with one example a call. Raises ModelError where the model cannot run so."""
    try:
        return one_by_one(model)(batch)
    except Exception as error:
        what = "the model cannot be run one example at a time, which keeps those of a batch apart"
        raise ModelError(
            f"{what} ({first_line(error)}); let it not decide by values, nor change itself"
        ) from None


def _column(flags: Bool[Tensor, " B"], values: Shaped[Tensor, "B ..."]) -> Tensor:
    return flags.view(-1, *[1] * (values.dim() - 1))
