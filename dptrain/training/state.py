"""What a training run changes from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dptrain.training.gradients.base import of_parameters, stack


@dataclass
class State:
    """All that a later step depends on. Tensors are [K, *shape] but for a count of steps.

    average: the moving average of the parameters or, with early stopping, the best so far, whose
    losses [K] on the population are best["loss"]; empty without either. attacker: of adversarial
    regularisation. moments: what the optimiser remembers of each parameter, by name and by its own
    key. step: the number of steps done.
    """

    parameters: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    attacker: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    step: int = 0

    @staticmethod
    def start(models: Sequence[nn.Module]) -> State:
        return State(stack(models))

    @property
    def released(self) -> dict[str, Tensor]:
        """What training is for: the average where there is one. Of private models it is
        post-processing of private iterates, so it costs no privacy.
        """
        return self.average or self.parameters

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under one name, for a file."""
        flat = {
            f"{part}/{name}": value
            for part in ("parameters", "average", "best", "attacker")
            for name, value in getattr(self, part).items()
        }
        moments = {
            f"moments/{key}/{name}": value
            for name, of_parameter in self.moments.items()
            for key, value in of_parameter.items()
        }
        return flat | moments

    @staticmethod
    def of(tensors: Mapping[str, Tensor], step: int) -> State:
        """The inverse of `tensors`."""
        state = State({}, step=step)
        for label, value in tensors.items():
            part, rest = label.split("/", 1)
            if part == "moments":
                key, name = rest.split("/", 1)
                state.moments.setdefault(name, {})[key] = value
            else:
                getattr(state, part)[rest] = value
        return state

    def to(self, device: torch.device) -> State:
        # A count of steps stays where torch wants it, on the CPU.
        moved = {
            name: value.to(device) if value.dim() else value
            for name, value in self.tensors().items()
        }
        return State.of(moved, self.step)

    def next(self) -> State:
        """The state of the next step, which takes over every tensor: this one is used up, and a
        step that is taken from it again fails.
        """
        taken = State.of(self.tensors(), self.step + 1)
        for part in (self.parameters, self.average, self.best, self.attacker, self.moments):
            part.clear()
        return taken

    def finite(self) -> bool:
        """Whether every number that is released is one."""
        return all(bool(torch.isfinite(value).all()) for value in self.released.values())


def keep_best(state: State, losses: Float[Tensor, " K"]) -> None:
    """Early stopping: of each model keep the parameters as they are now if its loss, of losses [K]
    on data that no model trains on, is the least so far.
    """
    if not state.best:
        state.best = {"loss": torch.full_like(losses, torch.inf)}
        state.average = {name: value.clone() for name, value in state.parameters.items()}
    better = losses < state.best["loss"]
    state.best["loss"] = torch.where(better, losses, state.best["loss"])
    for name, value in state.parameters.items():
        state.average[name] = torch.where(of_parameters(better, value), value, state.average[name])


def average(state: State, decay: float) -> None:
    """Move the average towards the parameters, its decay at most (1 + t) / (10 + t) as in De et al.
    2022's code, so that early iterates are soon forgotten. decay 0 stands for no average.
    """
    if not decay:
        return
    if not state.average:
        state.average = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    now = min(decay, (1 + state.step) / (10 + state.step)) if state.step > 1 else 0.0
    for name, value in state.parameters.items():
        state.average[name].lerp_(value, 1 - now)
