"""Which engine trains a model, where, how many side by side and in how many processes: chosen by a
short measurement, or as told.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from dptrain.config.schema import Config, TrainingConfig
from dptrain.core import limits, streams
from dptrain.core.errors import ModelError, TrainingError
from dptrain.core.types import EngineKind, Mechanism, Optimiser, Recipe, Sampling, Setting, Views
from dptrain.fleet.executors.base import Place
from dptrain.models.registry import known_elsewhere
from dptrain.models.row_wise import row_wise
from dptrain.models.validation import inputs
from dptrain.training import products
from dptrain.training.checks import disagreement, unsupported
from dptrain.training.products import Products
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train

WIDTHS = (1, 4, 16)
MEMORY_SHARE = 0.25
"""Of the device's memory, for the largest temporaries of one step of all workers."""
STEP_SECONDS, START_SECONDS = 0.3, 8.0
"""A step as long as the first fills the machine whatever the width; a worker process takes about
the second to start.
"""


@dataclass(frozen=True)
class Placement:
    """width: models in a stack; physical_batch: examples of a model in memory at once, None for
    whole batches; places: one a worker; step_seconds: of one model's step in such a stack, where it
    was measured; products: which library multiplies.
    """

    width: int
    physical_batch: int | None
    places: tuple[Place, ...]
    step_seconds: float | None = None
    products: Products = Products.DEFAULT

    @staticmethod
    def of(record: Mapping[str, Any]) -> Placement:
        """From the JSON of dataclasses.asdict."""
        places = tuple(Place(**place) for place in record["places"])
        products = Products(record["products"])
        return Placement(**{**record, "places": places, "products": products})

    def __str__(self) -> str:
        where = ", ".join(f"{place.device} ({place.threads} threads)" for place in self.places)
        parts = f", batches in parts of {self.physical_batch}" if self.physical_batch else ""
        by = "" if self.products == Products.DEFAULT else f"; products by {self.products}"
        return f"{self.width} side by side{parts}, on {where}{by}"


def choose_engine(
    wanted: EngineKind | None, model: nn.Module, shape: tuple[int, ...]
) -> tuple[EngineKind, str | None]:
    """The engine for a model and, when None falls back to another than stacked, the reason.

    Raises ModelError where none can train it, and TrainingError where the wanted one cannot.
    """
    reasons: list[str] = []
    for engine in EngineKind if wanted is None else (wanted,):
        wrong = _unfit(engine, model, shape)
        if wrong is None:
            return engine, (reasons[0] if reasons else None)
        reasons.append(wrong)
    if wanted is None:
        message = f"no engine can train this model: {reasons[-1]}"
        raise ModelError(f"{message}; use its parameters through their layers only")
    message = f"{wanted} cannot train this model: {reasons[-1]}"
    raise TrainingError(f"{message}; use another engine, or auto", "engine")


def _unfit(engine: EngineKind, model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why an engine cannot train a model; None if it can."""
    if engine == EngineKind.STACKED and (reason := unsupported(model, shape)):
        return reason
    if engine == EngineKind.OPACUS and not row_wise(model):
        return "Opacus gives it whole batches, and it is not known to treat each example by itself"
    return disagreement(engine, model, shape)


def choose_device(name: str) -> torch.device:
    """Raises TrainingError when the named device is absent."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if name not in available:
        raise TrainingError(f"there is no {name!r}; use auto, {', '.join(available)}", "device")
    if not available[name]:
        raise TrainingError(f"{name} is not available here; use auto", "device")
    return torch.device(name)


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(device: torch.device) -> int:
    """Bytes of the device, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return limits.memory()


def example_bytes(model: nn.Module, shape: Sequence[int], multiplicity: int) -> int:
    """About what one example of one model takes in a private step: its gradient, and what flows
    through the layers, forward and back.
    """
    outputs: list[int] = []

    def count(z: object) -> None:
        if isinstance(z, torch.Tensor):
            outputs.append(z.numel())
        elif isinstance(z, tuple | list):
            for part in z:
                count(part)

    hooks = [module.register_forward_hook(lambda _m, _i, z: count(z)) for module in model.modules()]
    with torch.no_grad():
        model(inputs(model, shape, 1))
    for hook in hooks:
        hook.remove()
    return 4 * (
        sum(parameter.numel() for parameter in model.parameters())
        + 3 * multiplicity * (sum(outputs) + math.prod(shape))
    )


def choose(
    config: Config,
    model: nn.Module,
    shape: tuple[int, ...],
    engine: EngineKind,
    device: torch.device,
    settings: int,
) -> Placement:
    """Where to train `settings` settings of a model; only what the configuration leaves open is
    measured, in seconds.
    """
    wanted, count = config.training, config.models_per_setting
    fits = max(
        1, int(MEMORY_SHARE * memory(device) / example_bytes(model, shape, wanted.multiplicity))
    )
    batch = 2 * wanted.batch_size  # a Poisson batch is hardly ever twice its expectation
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    widest = max(1, min(count, fits // batch))
    elsewhere = known_elsewhere(str(config.model["name"]))
    measured = (wanted.width is None and engine == EngineKind.STACKED) or (
        wanted.workers is None and elsewhere
    )
    at_once = min(wanted.physical_batch or fits, wanted.batch_size)
    trial = _Trial(wanted, model, shape, engine, device, at_once) if measured else None
    width = wanted.width or (
        1
        if engine != EngineKind.STACKED or trial is None
        else trial.best_width([w for w in WIDTHS if w <= widest])
    )
    width = min(width, count)
    multiplied = trial.best_products(width) if trial is not None else Products.DEFAULT
    workers = wanted.workers if elsewhere else 1
    if workers is None:
        stacks = settings * math.ceil(count / width)
        workers = min(gpus, stacks) or (
            trial.best_workers(width, stacks, config.steps) if trial and device.type == "cpu" else 1
        )
    names = [f"cuda:{index % gpus}" if gpus else str(device) for index in range(workers)]
    places = tuple(Place(name, max(1, torch.get_num_threads() // workers)) for name in names)
    each = max(1, fits // (width * (1 if gpus else workers)))
    seconds = None
    if trial is not None:
        share = trial.batch / wanted.batch_size  # of a batch that was timed
        seconds = (
            (trial.seconds.get(width) or trial.step_seconds(width))
            / share
            / (workers if gpus else 1)
        )
    return Placement(
        width,
        wanted.physical_batch or (each if each < batch else None),
        places,
        seconds,
        multiplied,
    )


@dataclass
class _Trial:
    """Private steps on random inputs, timed."""

    training: TrainingConfig
    model: nn.Module
    shape: tuple[int, ...]
    engine: EngineKind
    device: torch.device
    batch: int

    seconds: dict[int, float] = field(default_factory=dict)
    products: Products = Products.DEFAULT

    def __post_init__(self) -> None:
        self.examples = inputs(self.model, self.shape, self.batch)
        self.model = copy.deepcopy(self.model).to(self.device)
        few = max(1, self.batch // 8)
        if few < self.batch and self.step_seconds(1, few) > STEP_SECONDS / 8:
            self.batch = few  # a large model: a part of a batch tells enough

    def best_width(self, widths: Sequence[int]) -> int:
        best, least = 1, math.inf
        for width in widths:
            seconds = self.seconds[width] = self.step_seconds(width)
            if seconds < least:
                best, least = width, seconds
            if seconds * width > STEP_SECONDS:
                break
        return best

    def best_products(self, width: int) -> Products:
        """oneDNN's where they are accurate and save a tenth of a step, timed in turn."""
        if self.device.type != "cpu" or not products.available() or not products.accurate():
            return self.products
        seconds: dict[Products, float] = dict.fromkeys(Products, math.inf)
        for self.products in (*Products, *Products):
            before = seconds[self.products]
            seconds[self.products] = min(before, self.step_seconds(width))
        faster = seconds[Products.ONEDNN] < 0.9 * seconds[Products.DEFAULT]
        self.products = Products.ONEDNN if faster else Products.DEFAULT
        self.seconds[width] = seconds[self.products]
        return self.products

    def best_workers(self, width: int, stacks: int, steps: int) -> int:
        """Processes of one thread each when the measured gain outweighs their start; the machine's
        memory is shared, so a gain below a fifth is not trusted.
        """
        number = min(cores(), torch.get_num_threads(), stacks)
        if number < 2:
            return 1
        together = self.step_seconds(width)
        if together * width * steps * stacks < 4 * START_SECONDS:
            return 1
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            alone = self.step_seconds(width) / number
        finally:
            torch.set_num_threads(threads)
        gained = (together - alone) * width * steps * stacks
        return number if alone < 0.8 * together and gained > START_SECONDS else 1

    def step_seconds(self, width: int, batch: int | None = None) -> float:
        """Seconds of one private step, a model."""
        batch = batch or self.batch
        multiplicity = self.training.multiplicity
        views = Views(multiplicity=multiplicity)
        recipe = Recipe(Optimiser(0.1), precision=self.training.precision, views=views)
        mechanism = Mechanism(Sampling.POISSON, batch, batch, 6, 1.0, 1.0, batch)
        setting = Setting("trial", "dpsgd", None, 1e-5, mechanism, recipe)
        examples = self.examples[:batch].to(self.device)
        labels = torch.zeros(batch, dtype=torch.int64, device=self.device)
        times = [time.perf_counter()]

        def on_step(*_: object) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter())
            if times[-1] - times[0] > 4 * STEP_SECONDS:
                raise _Enough

        state = State.start([self.model] * width).to(self.device)
        keys = [streams.seeded_key(0, "trial")] * width
        members = np.ones((width, batch), dtype=bool)
        data = TrainingData(examples, labels, members)
        with contextlib.suppress(_Enough):
            trainer = Trainer.of(
                self.model, setting, self.engine, keys, data, products=self.products
            )
            train(trainer, state, on_step)
        return min(after - before for before, after in itertools.pairwise(times)) / width


class _Enough(Exception):
    """A trial has seen enough steps."""
