"""ENGINES: the stacked one, and two for modules without closed forms, which train one model at a time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.clipping import Engine, Factor, Stack, StackedEngine, mean_losses
from dptrain.regularise import Regulariser
from dptrain.row_wise import one_by_one
from dptrain.terms import norm, wide


class _OneModelAtATime:
    """An engine from the gradients of single examples, of one model after the other."""

    def __init__(self, precision: str):
        self.half = precision == "bfloat16"

    def _samples(self, parameters: Stack, views: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of one model's parameters, views [B, V, *shape] and labels [B]: gradients [B, *shape] by name, and losses [B]."""
        raise NotImplementedError

    def __call__(
        self,
        parameters: Stack,
        inputs: Tensor,
        labels: Tensor,
        weights: Tensor,
        factor: Factor | None,
        out: Stack,
        regulariser: Regulariser | None = None,
    ) -> Tensor:
        """See Engine. Raises ValueError for a regulariser."""
        if regulariser is not None:
            raise ValueError("regularisers are for the stacked engine")
        losses = torch.zeros(labels.shape, dtype=next(iter(out.values())).dtype, device=inputs.device)
        for row, used in enumerate(weights):
            for total in out.values():
                total[row].zero_()
            if not used.any():
                continue
            own = {name: value[row] for name, value in parameters.items()}
            samples, each = self._samples(own, inputs[row, used], labels[row, used])
            norms = norm(torch.stack([norm(sample.flatten(1)) for sample in samples.values()], dim=-1))
            keep = torch.isfinite(norms)
            factors = torch.where(keep, factor(norms), 0.0) if factor else torch.ones_like(norms)
            for name, sample in samples.items():
                finite = torch.where(keep.view(-1, *[1] * (sample.dim() - 1)), sample, 0.0) if factor else sample
                out[name][row] = torch.tensordot(factors, finite, dims=1)
            losses[row, used] = each
        return losses


class OpacusEngine(_OneModelAtATime):
    """Through Opacus's GradSampleModule, which gives the module whole batches: only for one that is known to be row-wise."""

    def __init__(self, model: nn.Module, precision: str = "float32"):
        from opacus.grad_sample import GradSampleModule

        super().__init__(precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")

    def _samples(self, parameters: Stack, views: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        named = dict(self.model._module.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(parameters[name])
        self.model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # inputs need no gradient here
            with torch.autocast(views.device.type, torch.bfloat16, enabled=self.half):
                each = mean_losses(self.model(views.flatten(0, 1)), labels[None], views.shape[1])[0]
            each.sum().backward()
        samples = {name: self._per_example(name, parameter, *views.shape[:2]) for name, parameter in named.items()}
        return samples, each.detach()

    @staticmethod
    def _per_example(name: str, parameter: nn.Parameter, batch: int, views: int) -> Tensor:
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor) or len(sample) != batch * views:
            raise RuntimeError(f"parameter {name!r} has no gradient for each of the {batch} examples")
        return wide(sample).unflatten(0, (batch, views)).sum(1)


class VmapEngine(_OneModelAtATime):
    """Any other module: the gradient of a function of one example, mapped over the batch by torch.func.vmap."""

    def __init__(self, model: nn.Module, precision: str = "float32"):
        super().__init__(precision)
        self.model = copy.deepcopy(model)

    def _samples(self, parameters: Stack, views: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        def loss(own: dict[str, Tensor], seen: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            """Of the views [V, *shape] of one example, each seen alone."""
            logits = one_by_one(lambda view: functional_call(self.model, own, (view,)))(seen)
            each = mean_losses(logits, label.view(1, 1), len(seen))[0, 0]
            return each, each

        with torch.autocast(views.device.type, torch.bfloat16, enabled=self.half):
            samples, each = vmap(grad(loss, has_aux=True), (None, 0, 0))(dict(parameters), views, labels)
        return {name: wide(sample) for name, sample in samples.items()}, each.detach()


ENGINES: dict[str, Callable[[nn.Module, str], Engine]] = {"stacked": StackedEngine, "opacus": OpacusEngine, "vmap": VmapEngine}
