"""Step times and memory of private and ordinary training, beside Opacus's modes, the time of
attacks, and that of whole sweeps; tables and a JSON file.

    python scripts/bench.py [--quick] [--only attacks|noise|executors|sweep] [--out FILE.json]
    python scripts/bench.py --before results/reference/bench/2026-11-24.json
    python scripts/bench.py --device cuda [--precision bfloat16] [--quick] [--out FILE.json]

Step times are interleaved over rounds, since machines are shared and noisy: only ratios within one
run mean something. Plain torch and Opacus run as one gets them, and again ("kept") in a process
with the allocator setting under which dptrain runs; "x plain" is the ratio to plain torch with the
same allocator. They get one batch that lies ready; ours draw their Poisson batches, gather them and
make their noise within the step. "products alone" are the matrix products of such a step of an MLP
in float32 by torch's default, in the same stack and written to memory that lies ready. --quick
takes fewer steps and no sweeps, in two minutes. On a GPU batches are larger, and there are step
times alone. --before prints the figures of an earlier run beside these: of its seconds only those
of the same machine compare.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dptrain import models
from dptrain.attacks import ATTACKS, needs
from dptrain.attacks.scores import Scores
from dptrain.config import compose
from dptrain.core import allocator, streams
from dptrain.core.store import Store
from dptrain.core.types import (
    EngineKind,
    Mechanism,
    Optimiser,
    Precision,
    Recipe,
    Sampling,
    Setting,
)
from dptrain.evaluation import thresholds
from dptrain.evaluation.attack_rows import attack_rows
from dptrain.evaluation.rows import Subject
from dptrain.fleet import models as trained_models
from dptrain.fleet import placement
from dptrain.fleet.executors import remote
from dptrain.fleet.executors.registry import execute
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import Assignment
from dptrain.pipeline.plan import Plan, plan
from dptrain.pipeline.run import load
from dptrain.training import products
from dptrain.training.noise import GaussianNoise
from dptrain.training.products import Products
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train

OPACUS = ("hooks", "functorch", "ghost")
CHANNELS_LAST, PRODUCTS = "torch, channels last", "products alone"


@dataclass(frozen=True)
class Case:
    """A model to time; steps: of one model, in a round."""

    name: str
    model: str
    options: dict[str, object]
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: int
    widths: tuple[int, ...] = (1, 4, 16)

    def build(self, seed: int = 0) -> nn.Module:
        return models.build(self.model, self.options, self.shape, self.classes, seed)


CASES = (
    Case("mlp 784-128-10", "mlp", {"hidden": [128]}, (784,), 10, 256, 32),
    Case("mlp 600-256-100", "mlp", {"hidden": [256]}, (600,), 100, 256, 32),
    Case("mlp 104-64-2", "mlp", {"hidden": [64]}, (104,), 2, 256, 32),
    Case("cnn 28x28", "cnn", {}, (1, 28, 28), 10, 256, 16),
    Case("wrn16_4 32x32", "wrn16_4", {}, (3, 32, 32), 10, 16, 3, (1, 4)),
)


CUDA_CASES = tuple(
    replace(case, batch=512 if case.model == "wrn16_4" else 4096, widths=(1, 4, 16))
    for case in CASES
)


@dataclass(frozen=True)
class Machine:
    """Where steps are timed; in which precision all take them, plain torch included; and which
    library multiplies in ours.
    """

    device: str = "cpu"
    precision: Precision = Precision.FLOAT32
    products: Products = Products.DEFAULT

    @property
    def cases(self) -> tuple[Case, ...]:
        return CASES if self.device == "cpu" else CUDA_CASES

    def batch_of(self, case: Case, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((count, *case.shape), generator=generator)
        y = torch.randint(0, case.classes, (count,), generator=generator)
        return x.to(self.device), y.to(self.device)

    def now(self) -> float:
        """Seconds, once the device has done what it was asked."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self) -> torch.autocast:
        half = self.precision == Precision.BFLOAT16
        return torch.autocast(self.device, torch.bfloat16, enabled=half)

    def peak_mb(self) -> float:
        """Of memory that this process has taken so far: the device's, or its own."""
        if self.device != "cpu":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plain(
    case: Case, steps: int, machine: Machine, layout: torch.memory_format = torch.contiguous_format
) -> list[float]:
    """Seconds of ordinary steps, as one writes them in torch."""
    model, (x, y) = case.build().to(machine.device), machine.batch_of(case, case.batch)
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=layout)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    times = []
    for _ in range(steps):
        start = machine.now()
        optimiser.zero_grad()
        with machine.autocast():
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        times.append(machine.now() - start)
    return times


def opacus(case: Case, steps: int, mode: str, machine: Machine) -> list[float]:
    """Seconds of DP-SGD steps with Opacus's PrivacyEngine in one of its modes."""
    model, (x, y) = case.build().to(machine.device), machine.batch_of(case, case.batch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    made = PrivacyEngine().make_private(
        module=model,
        optimizer=optimiser,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=case.batch),
        criterion=criterion,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode=mode,
    )
    private, stepper = made[0], made[1]
    if mode == "ghost":
        criterion = made[2]
    times = []
    for _ in range(steps):
        start = machine.now()
        stepper.zero_grad()
        with machine.autocast():
            loss = criterion(private(x), y)
        loss.backward()
        stepper.step()
        times.append(machine.now() - start)
    return times


def ours(
    case: Case, steps: int, width: int, private: bool, machine: Machine = Machine()
) -> list[float]:
    """Seconds of steps of one model in a stack of `width`, without the first."""
    stacked = [case.build(seed) for seed in range(width)]
    n = 4 * case.batch
    inputs, labels = machine.batch_of(case, n)
    mechanism = Mechanism(
        Sampling.POISSON,
        case.batch,
        n,
        1 + max(4, steps // width),
        float(private),
        1.0 if private else math.inf,
        case.batch,
    )
    times = [time.perf_counter()]
    members, keys = np.ones((width, n), dtype=bool), [streams.os_key() for _ in stacked]
    recipe = Recipe(Optimiser(0.01), precision=machine.precision)
    setting = Setting("bench", "dpsgd", None, 1e-5, mechanism, recipe)
    data = TrainingData(inputs, labels, members)
    state = State.start(stacked).to(torch.device(machine.device))
    model = stacked[0].to(machine.device)
    trainer = Trainer.of(model, setting, EngineKind.STACKED, keys, data, products=machine.products)
    train(trainer, state, lambda *_: times.append(machine.now()))
    # The first step makes the buffers.
    return [(after - before) / width for before, after in itertools.pairwise(times[1:])]


@dataclass(frozen=True)
class Way:
    """A way to take a step; kept: in the process whose allocator keeps memory."""

    engine: str
    private: bool
    width: int
    kept: bool

    def __str__(self) -> str:
        mark = self.kept and self.engine.startswith(("torch", "opacus"))
        return f"{self.engine}, kept" if mark else self.engine

    def seconds(self, case: Case, steps: int, machine: Machine) -> list[float]:
        if self.engine == "torch":
            return plain(case, steps, machine)
        if self.engine == CHANNELS_LAST:
            return plain(case, steps, machine, torch.channels_last)
        if self.engine == PRODUCTS:
            return products_alone(case, steps, self.width, machine)
        if self.engine == "dptrain":
            return ours(case, steps, self.width, self.private, machine)
        return opacus(case, min(steps, 4), self.engine.removeprefix("opacus "), machine)


def products_alone(case: Case, steps: int, width: int, machine: Machine) -> list[float]:
    """Seconds of the matrix products of a private step of an MLP, a model in a stack of `width`,
    written to memory that lies ready.
    """
    linear = [layer for layer in case.build().modules() if isinstance(layer, nn.Linear)]
    operands = [
        (
            torch.randn(width, case.batch, layer.in_features, device=machine.device),
            torch.randn(width, layer.out_features, layer.in_features, device=machine.device),
            torch.randn(width, case.batch, layer.out_features, device=machine.device),
        )
        for layer in linear
    ]
    results = [tuple(torch.empty_like(part) for part in parts) for parts in operands]
    times = [machine.now()]
    for _ in range(1 + max(4, steps // width)):
        for number, ((a, weight, g), (slope, gradient, z)) in enumerate(
            zip(operands, results, strict=True)
        ):
            torch.bmm(a, weight.transpose(1, 2), out=z)
            torch.bmm(g.transpose(1, 2), a, out=gradient)
            if number:  # nothing asks for the gradient at the inputs
                torch.bmm(g, weight, out=slope)
        times.append(machine.now())
    return [(after - before) / width for before, after in itertools.pairwise(times[1:])]


def ways(case: Case, quick: bool) -> list[Way]:
    widths = [width for width in case.widths if not quick or width != 4]
    others = [Way("torch", False, 1, kept) for kept in (False, True)]
    if case.model == "mlp":
        others.append(Way(PRODUCTS, True, max(widths), True))
    else:
        others.append(Way(CHANNELS_LAST, False, 1, True))
    if quick:  # functorch is never the fastest
        others += [Way(f"opacus {mode}", True, 1, False) for mode in ("hooks", "ghost")]
    else:
        others += [
            Way(f"opacus {mode}", True, 1, kept) for mode in OPACUS for kept in (False, True)
        ]
    return others + [
        Way("dptrain", private, width, True) for width in widths for private in (False, True)
    ]


def serve(connection: Connection, kept: bool, machine: Machine) -> None:
    """A process that takes steps on request."""
    warnings.simplefilter("ignore")
    if kept:
        allocator.keep_memory()
    while (request := connection.recv()) is not None:
        number, way, steps = request
        try:
            connection.send(way.seconds(machine.cases[number], steps, machine))
        except Exception as error:  # a mode that does not take this model
            connection.send((str(error).strip() or type(error).__name__).splitlines()[0])
        if machine.device != "cpu":
            torch.cuda.empty_cache()


def peak_mb(number: int, way: Way, answer: Connection, machine: Machine) -> None:
    """In a process of its own: what a few steps add to the memory it starts with."""
    warnings.simplefilter("ignore")
    if way.kept:
        allocator.keep_memory()
    before = machine.peak_mb()
    try:
        way.seconds(machine.cases[number], 2 * way.width, machine)
    except torch.OutOfMemoryError:  # the other processes have some of it
        answer.send(math.inf)
    else:
        answer.send(machine.peak_mb() - before)


def peak_beside(
    context: multiprocessing.context.ForkServerContext, number: int, way: Way, machine: Machine
) -> float:
    """peak_mb of a fresh process."""
    here, there = context.Pipe()
    process = context.Process(target=peak_mb, args=(number, way, there, machine))
    process.start()
    peak: float = here.recv()
    process.join()
    return peak


def median_seconds(
    ask: Callable[[Way, int], list[float] | str], case: Case, rounds: int, quick: bool
) -> dict[Way, float]:
    """Of a step, by way, taken in turns. `ask` takes some steps, or says why it cannot."""
    tried = [(way, ask(way, 1)) for way in ways(case, quick)]
    for way, first in tried:
        if isinstance(first, str):
            print(f"{case.name:<17}{way!s:<24} cannot: {first[:80]}")
    steps = max(2, case.steps // 2) if quick else case.steps
    seconds: dict[Way, list[float]] = {
        way: [] for way, first in tried if not isinstance(first, str)
    }
    for way, times in list(seconds.items()) * rounds:
        more = ask(way, steps)
        if isinstance(more, str):  # there was memory for the first time only
            seconds.pop(way, None)
        else:
            times += more
    return {way: statistics.median(times) for way, times in seconds.items()}


def step_table(rounds: int, quick: bool, machine: Machine) -> list[dict[str, object]]:
    # A fork of a process whose threads never started.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "opacus", "dptrain.training.trainer", "dptrain.models"]
    )
    servers = {}
    for kept in (False, True):
        servers[kept], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, kept, machine), daemon=True).start()

    def ask(number: int, way: Way, steps: int) -> list[float] | str:
        servers[way.kept].send((number, way, steps))
        result: list[float] | str = servers[way.kept].recv()
        return result

    rows: list[dict[str, object]] = []
    print(
        f"{'model':<17}{'engine':<24}{'private':>8}{'width':>6}{'ms a model-step':>17}"
        f"{'x plain':>9}{'peak MB':>9}"
    )
    for number, case in enumerate(machine.cases):
        median = median_seconds(functools.partial(ask, number), case, rounds, quick)
        for way, value in median.items():
            peak = peak_beside(context, number, way, machine)
            ratio = value / median[Way("torch", False, 1, way.kept)]
            rows.append(
                {
                    "model": case.name,
                    "engine": str(way),
                    "private": way.private,
                    "width": way.width,
                    "median_ms": 1e3 * value,
                    "ratio_to_plain": ratio,
                    "peak_mb": peak,
                }
            )
            flag = "yes" if way.private else "no"
            print(
                f"{case.name:<17}{way!s:<24}{flag:>8}{way.width:>6}{1e3 * value:>17.2f}"
                f"{ratio:>9.2f}{peak:>9.0f}",
                flush=True,
            )
        for name, value in step_figures(rows, case.name).items():
            print(f"{name}: {value:.2f}")
        print()
    for server in servers.values():
        server.send(None)
    return rows


def step_figures(rows: list[dict[str, object]], model: str) -> dict[str, float]:
    """Ratios of the median steps of a model: ours, private, at its best width; theirs as fast as
    they run. What could not run has none.
    """
    ms: dict[tuple[object, object], float] = {}
    for row in rows:
        if row["model"] == model:
            way, value = (row["engine"], row["private"]), cast("float", row["median_ms"])
            ms[way] = min(value, ms.get(way, math.inf))
    private, plain_step, alone = ("dptrain", True), ("torch, kept", False), (PRODUCTS, True)
    peers = [way for way in ms if str(way[0]).startswith("opacus")]
    opacus_step = min(peers, key=ms.__getitem__, default=None)
    ratios = {
        "private / plain": (private, plain_step),
        "private / plain with channels last": (private, (f"{CHANNELS_LAST}, kept", False)),
        "fastest Opacus / ours": (opacus_step, private),
        "Opacus hooks as one gets them / ours": (("opacus hooks", True), private),
        "products alone / plain": (alone, plain_step),
        "products alone / ours": (alone, private),
    }
    return {
        f"{model}: {name}": ms[upper] / ms[lower]
        for name, (upper, lower) in ratios.items()
        if upper in ms and lower in ms
    }


def figures_of(record: dict[str, Any]) -> dict[str, float]:
    """The figures of a run, by name: ratios of steps, and seconds."""
    figures: dict[str, float] = {}
    rows = record.get("rows", [])
    for model in dict.fromkeys(row["model"] for row in rows):
        figures |= step_figures(rows, model)
    for name, row in record.get("attacks", {}).items():
        figures |= {f"{name}: s": row["attack_seconds"], f"{name}: s of rows": row["rows_seconds"]}
    for name, row in {**record.get("sweep", {}), **record.get("sweeps", {})}.items():
        figures[f"{name}: s"] = row["seconds"]
    return figures


def beside(before: dict[str, Any], record: dict[str, Any]) -> None:
    """Print the figures of an earlier run and those of this."""
    then, now = figures_of(before), figures_of(record)
    print(f"{'':<60}{'before':>9}{'now':>9}")
    for name, value in now.items():
        earlier = f"{then[name]:.2f}" if name in then else "-"
        print(f"{name:<60}{earlier:>9}{value:>9.2f}")


def sweep_seconds(overrides: list[str]) -> tuple[float, float]:
    """Wall-clock seconds of a whole `dptrain sweep`, start of Python to report, in a folder that is
    thrown away; and the peak GiB of it and its workers together.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dptrain", "sweep", *overrides, f"output={folder}/out"]
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(
                f"failed: {' '.join(command)}\n"
                f"{process.stderr.read().decode()[-1000:] if process.stderr else ''}"
            )
        return time.perf_counter() - start, peak / 2**30


def resident(pid: int) -> int:
    """Bytes of memory of a process and its descendants."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return pages * resource.getpagesize() + sum(resident(int(child)) for child in children)


def by_hand_seconds(mode: str) -> tuple[float, str]:
    """The training of the quickstart sweep as one writes it today: 16 plain models, then 16 with
    Opacus at each of three epsilons, one after the other, every model's logits, and LiRA's
    Gaussians in a loop over examples. A few steps are timed and scaled. mode: of Opacus, hooks or
    ghost.
    """
    case = Case("quickstart", "mlp", {"hidden": [128]}, (784,), 10, 512, 0)
    steps, timed = math.ceil(50 * 2000 / 512), 5 if mode == "hooks" else 20
    ordinary, private = (
        statistics.median(plain(case, 20, Machine())),
        statistics.median(opacus(case, timed, mode, Machine())),
    )
    model, (x, _) = case.build(), Machine().batch_of(case, 4000)
    start = time.perf_counter()
    with torch.no_grad():
        model(x)
    logits = time.perf_counter() - start
    from scipy.stats import norm

    phi, examples = np.random.default_rng(0).normal(size=(16, 4000)), 200
    start = time.perf_counter()
    for i in range(examples):
        inside, outside = phi[1:8, i], phi[8:, i]
        norm.logpdf(phi[0, i], inside.mean(), inside.std()) - norm.logpdf(
            phi[0, i], outside.mean(), outside.std()
        )
    lira = (time.perf_counter() - start) * 4000 / examples
    total = 16 * steps * (ordinary + 3 * private) + 64 * (logits + lira)
    scaled_from = (
        f"16 models x {steps} steps x ({1e3 * ordinary:.1f} ms plain + 3 x "
        f"{1e3 * private:.1f} ms Opacus {mode}), {timed} steps timed; LiRA from {examples} of "
        "4,000 examples"
    )
    return total, scaled_from


def quickstart_table() -> dict[str, object]:
    """The whole quickstart, attacks and report included, against its training written by hand."""
    seconds, peak = sweep_seconds(["experiment=quickstart"])
    table: dict[str, object] = {"the quickstart": {"seconds": seconds, "peak_gib": peak}}
    print(f"{'the quickstart':<32}{seconds:>8.1f} s{peak:>8.2f} GiB", flush=True)
    for mode in ("hooks", "ghost"):
        by_hand, scaled_from = by_hand_seconds(mode)
        table[f"by hand, {mode}"] = {"seconds": by_hand, "scaled_from": scaled_from}
        print(f"{f'by hand, {mode}':<32}{by_hand:>8.0f} s  (scaled: {scaled_from})")
        print(f"by hand, {mode} / dptrain: {by_hand / seconds:.1f}")
    return table


def sweeps() -> dict[str, object]:
    """Whole sweeps against the number of models, epsilons and examples, and against the same done
    by hand.
    """
    short = ["dataset.pool=4000", "training.epochs=10", "attacks=[loss,lira]", "epsilons=[8]"]
    table: dict[str, object] = {}
    for name, overrides in (
        ("16 models", [*short, "models_per_setting=16"]),
        ("64 models", [*short, "models_per_setting=64"]),
        ("16 models, 4 epsilons", [*short, "epsilons=[8,4,2,1]"]),
        ("16 models, half the examples", [*short, "dataset.pool=2000", "training.batch_size=256"]),
    ):
        seconds, peak = sweep_seconds(overrides)
        table[name] = {"seconds": seconds, "peak_gib": peak}
        print(f"{name:<32}{seconds:>8.1f} s{peak:>8.2f} GiB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.npz"
        rng = np.random.default_rng(0)
        np.savez(
            file,
            inputs=rng.integers(0, 256, (62_000, 784), np.uint8),
            labels=rng.integers(0, 10, 62_000),
        )
        large = [
            "dataset=npz",
            f"dataset.path={file}",
            "dataset.pool=60000",
            "dataset.population=1000",
            "dataset.test=1000",
        ]
        seconds, peak = sweep_seconds(
            [
                *large,
                "models_per_setting=64",
                "epsilons=[8]",
                "training.epochs=1",
                "attacks=[loss,lira]",
            ]
        )
    table["64 models, 60,000 examples"] = {"seconds": seconds, "peak_gib": peak}
    print(f"{'64 models, 60,000 examples':<32}{seconds:>8.1f} s{peak:>8.2f} GiB")
    times = {name: value["seconds"] for name, value in table.items()}  # type: ignore[index]
    print(f"64 models / 16 models: {times['64 models'] / times['16 models']:.2f}")
    return table | quickstart_table()


def attack_seconds(name: str, options: dict[str, object], answer: Connection) -> None:
    """In a process of its own: an attack on all of 64 models x 50,000 examples x 10 classes, from
    their logits; then its rows.
    """
    models, examples, classes = 64, 50_000, 10
    rng = np.random.default_rng(0)
    membership = streams.memberships(models, examples, streams.seeded_key(0, "bench"))
    labels = rng.integers(0, classes, examples)
    logits = rng.standard_normal((models, examples, 1, classes), dtype=np.float32)
    logits[:, np.arange(examples), 0, labels] += 2 + membership
    outside = Scores(
        rng.standard_normal((models, 5000, 1, classes), dtype=np.float32),
        rng.integers(0, classes, 5000),
        np.zeros((models, 5000), dtype=bool),
        inputs=rng.standard_normal((5000, 20), dtype=np.float32),
    )
    inputs = rng.standard_normal((examples, 20), dtype=np.float32)
    extras = {extra: _extra(rng, extra, logits) for extra in needs(name, options)}
    scores = Scores(logits, labels, membership, inputs=inputs, population=outside, extras=extras)
    start = time.perf_counter()
    attack_scores = thresholds.run(scores, name, options)
    attacked, peak = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )
    start = time.perf_counter()
    subject = Subject("bench", "", None, 1e-5)
    attack_rows(subject, name, attack_scores, scores, ("one_run",))
    answer.send((attacked, time.perf_counter() - start, peak))


def _extra(rng: np.random.Generator, name: str, logits: np.ndarray) -> np.ndarray:
    """Something of the shape that an attack reads; two copies or checkpoints."""
    models, examples, _, classes = logits.shape
    if name.endswith("_logits"):
        noise = rng.standard_normal((models, examples, 2, classes), dtype=np.float32)
        return logits + noise / 10
    if name == "trajectory_loss":
        return rng.random((models, examples, 2), dtype=np.float32)
    return rng.random((models, examples), dtype=np.float32)


def attack_table() -> dict[str, object]:
    """Every model of a large fleet as the target, and the peak memory of the process, data
    included.
    """
    context = multiprocessing.get_context("spawn")
    table: dict[str, object] = {}
    print(f"{'64 models x 50,000 examples':<32}{'attack s':>10}{'rows s':>10}{'peak GiB':>10}")
    for name in ATTACKS:
        for variance in ("global", "per_example") if name.startswith("lira") else (None,):
            ours, theirs = context.Pipe()
            options = {"variance": variance} if variance else {}
            process = context.Process(target=attack_seconds, args=(name, options, theirs))
            process.start()
            attacked, rows, peak = ours.recv()
            process.join()
            title = " ".join(filter(None, [name, variance]))
            table[title] = {"attack_seconds": attacked, "rows_seconds": rows, "peak_gib": peak}
            print(f"{title:<32}{attacked:>10.1f}{rows:>10.1f}{peak:>10.2f}", flush=True)
    total = sum(cast("dict[str, float]", row)["attack_seconds"] for row in table.values())
    print(f"all attacks: {total:.0f} s")
    return table


class _Plain(GaussianNoise):
    """The same without what hardens it: 32-bit radii, their gaps included."""

    def _box_muller(
        self, one: torch.Tensor, two: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> list[tuple[int, int]]:
        radius, angle = (
            buffer[: one.numel()].view(one.shape) for buffer in (self._radius, self._angle)
        )
        radius.copy_(one).abs_().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle.copy_(two).mul_(math.pi * 2.0**-31)
        torch.cos(angle, out=cosines).mul_(radius)
        torch.sin(angle, out=sines).mul_(radius)
        return []


def noise_table() -> dict[str, float]:
    """Milliseconds for the noise of one step of one model, added to its sum and divided: as trained
    with, and without what hardens it; and for torch's generator, which is none for secrets.
    """
    size, models, rounds = 101_770, 16, 60
    keys, total = (
        [streams.seeded_key(model, "bench") for model in range(models)],
        torch.zeros(models, size),
    )
    sources = {
        "as trained with": GaussianNoise(models, size),
        "without hardening": _Plain(models, size),
    }
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in (*sources, "torch.randn")}
    for step in range(rounds):
        for name, times in seconds.items():
            start = time.perf_counter()
            drawn = (
                sources[name].draw(keys, step)
                if name in sources
                else torch.randn(models, size, generator=generator)
            )
            if name == "as trained with":
                total.add_(drawn, alpha=16.0).round_().mul_(1 / 4096)
            else:
                total.add_(drawn, alpha=1.0).div_(256)
            times.append((time.perf_counter() - start) / models)
    medians = {name: 1e3 * statistics.median(times[5:]) for name, times in seconds.items()}
    print(
        f"noise of {size:,} parameters: "
        + ", ".join(f"{name} {value:.3f} ms" for name, value in medians.items())
    )
    print(f"hardened / not: {medians['as trained with'] / medians['without hardening']:.3f}")
    return medians


def allocator_gain() -> dict[str, float]:
    """Private steps of the CNN without and with the allocator setting, each in processes of its
    own, interleaved.
    """
    code = (
        "import sys, statistics; sys.path.insert(0, sys.argv[2]); import bench; from "
        "dptrain.core import allocator;"
        "sys.argv[1] == 'kept' and allocator.keep_memory();"
        "print(statistics.median(bench.ours(bench.CASES[3], 16, 1, True)[4:]))"
    )
    seconds: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(3):
        for name in seconds:
            command = [sys.executable, "-c", code, name, str(Path(__file__).parent)]
            seconds[name].append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    print(
        f"allocator, private step of the CNN: {medians['default']:.1f} ms by default, "
        f"{medians['kept']:.1f} ms with memory kept"
    )
    return medians


CNN_SWEEP = [
    "dataset=mnist5k",
    "model=cnn",
    "models_per_setting=4",
    "epsilons=[8]",
    "privacy.noise=seeded",
    "training.width=1",
    "training.workers=1",
    "attacks=[loss]",
    "training.checkpoint_seconds=30",
]


def executors_table() -> dict[str, object]:
    """Four private CNNs by this process, by Ray on one node and by Ray on two nodes, a thread each;
    and what a chunk costs the driver, against the bytes of its stack's state.
    """
    import ray
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)
    table: dict[str, object] = {"driver": driver_seconds(), "cores": placement.cores()}
    print(f"driver: {table['driver']}")
    seconds: dict[str, float] = {"local": _trained("training.epochs=24", "executor=local")}
    print(f"local: {seconds['local']:.1f} s", flush=True)
    for nodes in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False)
        chosen = ["executor=ray", f"executor.address={cluster.address}"]
        _trained("training.epochs=0.1", *chosen)  # starts a process on each node
        seconds[f"ray, {nodes} nodes"] = _trained("training.epochs=24", *chosen)
        ray.shutdown()
        cluster.shutdown()
        print(f"ray, {nodes} nodes: {seconds[f'ray, {nodes} nodes']:.1f} s", flush=True)
    one, two = seconds["ray, 1 nodes"], seconds["ray, 2 nodes"]
    print(f"Ray on one node / local: {one / seconds['local']:.3f}; one / two: {one / two:.2f}")
    return {**table, "seconds": seconds}


def _fleet(folder: str, *overrides: str) -> tuple[Plan, Fleet]:
    chosen = compose.load("sweep", [*CNN_SWEEP, *overrides, f"output={folder}"])
    ready = plan(chosen)
    return ready, load(ready, Store(Path(folder) / "store"))


def _trained(*overrides: str) -> float:
    """Seconds of the training alone."""
    with tempfile.TemporaryDirectory() as folder:
        ready, fleet = _fleet(f"{folder}/out", *overrides)
        jobs = [
            (setting, block)
            for setting in ready.settings
            for block in trained_models.blocks(fleet, setting)
        ]
        headers = dict.fromkeys([setting.name for setting in ready.settings], "")
        start = time.perf_counter()
        execute(Assignment(fleet, jobs, headers, lambda event: None, lambda: False))
        return time.perf_counter() - start


def driver_seconds() -> dict[str, float]:
    """Of a chunk that comes back and is sent again, by bytes of state."""
    table: dict[str, float] = {}
    for model, width in (("mlp", 1), ("mlp", 16), ("wrn16_4", 1), ("wrn16_4", 4)):
        with tempfile.TemporaryDirectory() as folder:
            sizes = [f"model={model}", f"training.width={width}", "models_per_setting=16"]
            ready, fleet = _fleet(f"{folder}/out", *sizes)
            sink = _Sink()
            setting = ready.settings[0]
            stack = remote.Stack.of(
                fleet, setting, range(width), list(range(width)), lambda event: None
            )
            times = []
            for _ in range(6):
                start = time.perf_counter()
                stack.send(sink)
                stack.take(remote.News(stack.name, sink.chunks.pop().progress))
                times.append(time.perf_counter() - start)
            size = len(stack.stored().to_bytes())
            table[f"{size:,} bytes"] = statistics.median(times[1:])
    return table


class _Sink:
    """A cluster that does nothing."""

    whole = False

    def __init__(self) -> None:
        self.chunks: list[remote.Chunk] = []

    def submit(self, name: str, chunk: remote.Chunk) -> None:
        self.chunks.append(chunk)

    def room(self, at_work: int) -> bool:
        return True

    def leftover(self, name: str) -> bytes | None:
        return None

    def news(self, seconds: float) -> Iterator[remote.News]:
        return iter(())


TABLES: dict[str, Callable[[], object]] = {
    "attacks": attack_table,
    "noise": noise_table,
    "executors": executors_table,
    "sweep": quickstart_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="step times only, fewer of them")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 2")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--before", type=Path, help="JSON file of an earlier run, to print beside")
    parser.add_argument("--only", choices=list(TABLES), help="nothing but this table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of step times")
    parser.add_argument(
        "--products", choices=list(Products), default=Products.DEFAULT, help="of our steps"
    )
    parser.add_argument("--precision", choices=list(Precision), default=Precision.FLOAT32)
    options = parser.parse_args()
    machine = Machine(options.device, Precision(options.precision), Products(options.products))
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --device cuda needs one")
    before = json.loads(options.before.read_text()) if options.before else None
    warnings.simplefilter("ignore")
    name = torch.cuda.get_device_name() if machine.device == "cuda" else machine.device
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {name}")
    record: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": name,
        "precision": machine.precision,
        "products": machine.products,
        "onednn_available": products.available(),
    }
    if options.only:
        record[options.only] = TABLES[options.only]()
    else:
        here = machine == Machine() and not options.quick
        if here:
            record["allocator_ms"], record["noise_ms"] = allocator_gain(), noise_table()
        rounds = options.rounds or (2 if options.quick else 5)
        record["rows"] = step_table(rounds, options.quick, machine)
        if here:
            record["attacks"], record["sweeps"] = attack_table(), sweeps()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if before is not None:
        beside(before, record)


if __name__ == "__main__":
    main()
