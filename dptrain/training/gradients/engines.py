"""ENGINES: the stacked one, and two for modules without closed forms, which train one model at a
time.
"""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.core.types import EngineKind, Precision
from dptrain.models.row_wise import one_by_one
from dptrain.training.gradients.base import (
    Batch,
    Engine,
    Factor,
    Stack,
    mean_losses,
    of_parameters,
)
from dptrain.training.gradients.stacked import StackedEngine
from dptrain.training.gradients.terms import norm, wide
from dptrain.training.regularisers import StepLoss

Samples = dict[str, Tensor]
"""Parameter name -> gradients of single examples, [B, *shape]."""


class _OneModelAtATime(Engine):
    """An engine from the gradients of single examples, of one model after the other."""

    def __init__(self, precision: Precision):
        self.half = precision == Precision.BFLOAT16

    @abstractmethod
    def _samples(
        self,
        parameters: Stack,
        views: Shaped[Tensor, "B V ..."],
        labels: Shaped[Tensor, "B ..."],
        shares: Float[Tensor, "B V"],
    ) -> tuple[Samples, Tensor]:
        """Of one model's parameters, views [B, V, *shape], labels [B] or [B, V], and shares of the
        views [B, V]: gradients and losses [B].
        """

    def _clipped_sums(self, parameters: Stack, batch: Batch, factor: Factor, out: Stack) -> Tensor:
        def add_up(samples: Samples, row: int) -> None:
            norms = norm(
                torch.stack([norm(sample.flatten(1)) for sample in samples.values()], dim=-1)
            )
            keep = torch.isfinite(norms)
            factors = torch.where(keep, factor(norms), 0.0)
            for name, sample in samples.items():
                finite = torch.where(of_parameters(keep, sample), sample, 0.0)
                out[name][row] = torch.tensordot(factors, finite, dims=1)

        return self._each_model(parameters, batch, out, add_up)

    def _plain_sums(
        self, parameters: Stack, batch: Batch, out: Stack, loss: StepLoss | None
    ) -> Tensor:
        if loss is not None:
            raise ValueError("regularisers are for the stacked engine")

        def add_up(samples: Samples, row: int) -> None:
            for name, sample in samples.items():
                out[name][row] = torch.tensordot(sample.new_ones(len(sample)), sample, dims=1)

        return self._each_model(parameters, batch, out, add_up)

    def _each_model(
        self, parameters: Stack, batch: Batch, out: Stack, add_up: Callable[[Samples, int], None]
    ) -> Tensor:
        dtype = next(iter(out.values())).dtype
        losses = torch.zeros(batch.weights.shape, dtype=dtype, device=batch.inputs.device)
        shares = batch.shares
        if shares is None:
            count = batch.inputs.shape[2]
            shares = torch.full(
                (*batch.weights.shape, count), 1 / count, dtype=dtype, device=losses.device
            )
        for row, used in enumerate(batch.weights):
            for total in out.values():
                total[row].zero_()
            if not used.any():
                continue
            model = {name: value[row] for name, value in parameters.items()}
            samples, each = self._samples(
                model, batch.inputs[row, used], batch.labels[row, used], shares[row, used]
            )
            add_up(samples, row)
            losses[row, used] = each
        return losses


class OpacusEngine(_OneModelAtATime):
    """Through Opacus's GradSampleModule, which gives the module whole batches: only for one that is
    known to be row-wise.
    """

    def __init__(self, model: nn.Module, precision: Precision = Precision.FLOAT32):
        from opacus.grad_sample import GradSampleModule

        super().__init__(precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")

    def _samples(
        self,
        parameters: Stack,
        views: Shaped[Tensor, "B V ..."],
        labels: Shaped[Tensor, "B ..."],
        shares: Float[Tensor, "B V"],
    ) -> tuple[Samples, Tensor]:
        named = dict(self.model._module.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(parameters[name])
        self.model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Inputs need no gradient here.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            with torch.autocast(views.device.type, torch.bfloat16, enabled=self.half):
                logits = self.model(views.flatten(0, 1))
                each = mean_losses(logits, labels[None], views.shape[1], shares[None], self.kind)[0]
            each.sum().backward()
        samples = {
            name: self._per_example(name, parameter, *views.shape[:2])
            for name, parameter in named.items()
        }
        return samples, each.detach()

    @staticmethod
    def _per_example(name: str, parameter: nn.Parameter, batch: int, views: int) -> Tensor:
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor) or len(sample) != batch * views:
            raise RuntimeError(
                f"parameter {name!r} has no gradient for each of the {batch} examples"
            )
        result: Tensor = wide(sample).unflatten(0, (batch, views)).sum(1)
        return result


class VmapEngine(_OneModelAtATime):
    """Any other module: the gradient of a function of one example, mapped over the batch by
    torch.func.vmap.
    """

    def __init__(self, model: nn.Module, precision: Precision = Precision.FLOAT32):
        super().__init__(precision)
        self.model = copy.deepcopy(model)

    def _samples(
        self,
        parameters: Stack,
        views: Shaped[Tensor, "B V ..."],
        labels: Shaped[Tensor, "B ..."],
        shares: Float[Tensor, "B V"],
    ) -> tuple[Samples, Tensor]:
        def loss(
            values: Samples,
            example: Shaped[Tensor, "V ..."],
            label: Shaped[Tensor, " ..."],
            share: Float[Tensor, " V"],
        ) -> tuple[Tensor, Tensor]:
            """Of the views [V, *shape] of one unit, each seen alone."""
            logits = one_by_one(lambda view: functional_call(self.model, values, (view,)))(example)
            of_unit = label[None, None], len(example), share[None, None]
            each = mean_losses(logits, *of_unit, self.kind)[0, 0]
            return each, each

        with torch.autocast(views.device.type, torch.bfloat16, enabled=self.half):
            samples, each = vmap(grad(loss, has_aux=True), (None, 0, 0, 0))(
                dict(parameters), views, labels, shares
            )
        return {name: wide(sample) for name, sample in samples.items()}, each.detach()


ENGINES: dict[EngineKind, Callable[[nn.Module, Precision], Engine]] = {
    EngineKind.STACKED: StackedEngine,
    EngineKind.OPACUS: OpacusEngine,
    EngineKind.VMAP: VmapEngine,
}
