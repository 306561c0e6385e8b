"""Which modules treat each example of a batch by itself, and how every other module is made to.

Clipping bounds what one example adds to a sum only if its gradient depends on no other example. A
probe can show that a module mixes examples on the inputs it was tried on; it cannot show that a
module never does. So a module that is not known to be row-wise is never given a batch: it runs
under `torch.func.vmap`, where each call sees a batch of one. Deciding by values (`if x.max() > 1`)
and shapes that depend on values (`x[x > 0]`) are errors there.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules import module as torch_module

from dptrain.models.layers import OnFeatures, ResidualBlock, Scattering, WSConv2d

Check = Callable[[nn.Module], bool]


def _always(_module: nn.Module) -> bool:
    return True


def _inner(*names: str) -> Check:
    """Dimensions that the attributes name lie behind the first, which counts the examples: counted
    from the front, or the last one.
    """
    return lambda module: all(
        type(dim := getattr(module, name)) is int and (dim > 0 or dim == -1) for name in names
    )


def _from_inner(module: nn.Module) -> bool:
    """What is flattened begins behind the first dimension; from the end it could reach it."""
    assert isinstance(module, nn.Flatten)
    return module.start_dim > 0 and (module.end_dim > 0 or module.end_dim == -1)


def _plain_table(module: nn.Module) -> bool:
    """A lookup that leaves the table as it is: max_norm changes rows that others look up."""
    return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def _without_statistics(module: nn.Module) -> bool:
    return not module.track_running_stats


def _no_draws(module: nn.Module) -> bool:
    return bool(module.p == 0)


ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.Threshold,
    nn.Identity,
)
LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
    nn.Sequential,
    WSConv2d,
    ResidualBlock,
    OnFeatures,
    Scattering,
)
KNOWN: dict[type[nn.Module], Check] = {
    **dict.fromkeys((*ELEMENTWISE, *LAYERS), _always),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _without_statistics),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _no_draws),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU, nn.Unflatten), _inner("dim")),
    nn.Flatten: _from_inner,
    nn.Embedding: _plain_table,
}
"""Modules of torch and of ours whose code treats each row by itself, and what must hold of one.
Exact types: a subclass is another module.
"""

WHOLE = (Scattering,)
"""Those whose inner modules, of other packages, are known with them."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


FORWARD = {kind: kind.forward for kind in KNOWN}


def row_wise(model: nn.Module) -> bool:
    """Whether a module is known to treat each row of a batch by itself: it is built of KNOWN
    modules alone, none of which was changed by a hook or by a function put in the place of one of
    its own or of its class.
    """
    hooked = torch_module._has_any_global_hook() or any(getattr(model, name) for name in HOOKS)
    replaced = any(
        callable(value) and not isinstance(value, nn.Module) for value in vars(model).values()
    )
    changed = hooked or replaced or type(model).forward is not FORWARD.get(type(model))
    if changed or type(model) not in KNOWN or not KNOWN[type(model)](model):
        return False
    return type(model) in WHOLE or all(map(row_wise, model.children()))


def one_by_one(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`call`, which maps [B, ...] to [B, ...], run on each row of its argument as a batch of one.

    Raises RuntimeError where the call decides by values, draws random numbers, or keeps what it saw
    for the next call.
    """
    return vmap(lambda example: call(example[None])[0])
