"""Step times and memory of private and ordinary training, beside Opacus's modes, and the time of whole sweeps; tables and a JSON file.

    python scripts/bench.py [--quick] [--out results/bench/steps.json]

Step times are interleaved over rounds, since machines are shared and noisy: only ratios within one run mean something. Every engine
runs in one process with the same allocator setting. Plain torch and Opacus get one batch that lies ready; ours draw their Poisson batches,
gather them and make their noise within the step. --quick takes step times only, in two minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dptrain import allocator, models, sampling
from dptrain.train import State, train
from dptrain.types import Mechanism, Recipe, Sampling, Setting

OPACUS = ("hooks", "functorch", "ghost")


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


def batch_of(case: Case, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((count, *case.shape), generator=generator), torch.randint(0, case.classes, (count,), generator=generator)


def plain(case: Case, steps: int) -> list[float]:
    """Seconds of ordinary steps, as one writes them in torch."""
    model, (x, y) = case.build(), batch_of(case, case.batch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return times


def opacus(case: Case, steps: int, mode: str) -> list[float]:
    """Seconds of DP-SGD steps with Opacus's PrivacyEngine in one of its modes."""
    model, (x, y) = case.build(), batch_of(case, case.batch)
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
        start = time.perf_counter()
        stepper.zero_grad()
        criterion(private(x), y).backward()
        stepper.step()
        times.append(time.perf_counter() - start)
    return times


def ours(case: Case, steps: int, width: int, private: bool) -> list[float]:
    """Seconds of steps of one model in a stack of `width`."""
    stacked = [case.build(seed) for seed in range(width)]
    n = 4 * case.batch
    inputs, labels = batch_of(case, n)
    mechanism = Mechanism(Sampling.POISSON, case.batch, n, max(2, steps // width), float(private), 1.0 if private else math.inf, case.batch)
    times = [time.perf_counter()]
    members, keys = np.ones((width, n), dtype=bool), [sampling.os_key() for _ in stacked]
    setting = Setting("bench", "dpsgd", None, 1e-5, mechanism, Recipe(0.01))
    train(stacked[0], setting, "stacked", State.start(stacked), keys, inputs, labels, members, lambda *_: times.append(time.perf_counter()))
    return [(after - before) / width for before, after in itertools.pairwise(times)]


Measure = Callable[[int], list[float]]


def engines(case: Case, widths: tuple[int, ...]) -> dict[tuple[str, bool, int], Measure]:
    """(engine, private, width) -> steps -> seconds of each."""
    found: dict[tuple[str, bool, int], Measure] = {("torch", False, 1): lambda steps: plain(case, steps)}
    for mode in OPACUS:
        found[f"opacus {mode}", True, 1] = lambda steps, mode=mode: opacus(case, min(steps, 4), mode)  # type: ignore[misc]
    for width in widths:
        for private in (False, True):
            found["dptrain", private, width] = lambda steps, width=width, private=private: ours(case, steps, width, private)  # type: ignore[misc]
    return found


def peak_mb(number: int, key: tuple[str, bool, int], answer: object) -> None:
    """In a process of its own: what a few steps add to the memory it starts with."""
    allocator.keep_memory()
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    case = CASES[number]
    engines(case, (key[2],))[key](2 * key[2])
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)  # type: ignore[attr-defined]


def step_table(rounds: int, quick: bool) -> list[dict[str, object]]:
    context = multiprocessing.get_context("forkserver")  # a fork of a process whose threads never started
    context.set_forkserver_preload(["torch", "opacus", "dptrain.train", "dptrain.models"])
    rows: list[dict[str, object]] = []
    print(f"{'model':<17}{'engine':<18}{'private':>8}{'width':>6}{'ms a model-step':>17}{'x plain':>9}{'peak MB':>9}")
    for number, case in enumerate(CASES):
        widths = tuple(width for width in case.widths if not quick or width != 4)
        measures, seconds = engines(case, widths), {}
        for key, measure in list(measures.items()):
            try:
                measure(1)
            except Exception as error:  # a mode that does not take this model
                print(f"{case.name:<17}{key[0]:<18} cannot: {str(error).strip().splitlines()[0][:80]}")
                del measures[key]
            seconds[key] = []
        for _ in range(rounds):
            for key, measure in measures.items():
                seconds[key] += measure(case.steps if not quick else max(2, case.steps // 2))
        for key in measures:
            engine, private, width = key
            median, reference = statistics.median(seconds[key]), statistics.median(seconds["torch", False, 1])
            answer = context.Queue()
            process = context.Process(target=peak_mb, args=(number, key, answer))
            process.start()
            peak = answer.get()
            process.join()
            row = {
                "model": case.name,
                "engine": engine,
                "private": private,
                "width": width,
                "median_ms": 1e3 * median,
                "ratio_to_plain": median / reference,
                "peak_mb": peak,
            }
            rows.append(row)
            flag = "yes" if private else "no"
            print(f"{case.name:<17}{engine:<18}{flag:>8}{width:>6}{1e3 * median:>17.2f}{median / reference:>9.2f}{peak:>9.0f}", flush=True)
    return rows


def sweep_seconds(overrides: list[str]) -> tuple[float, float]:
    """Wall-clock seconds and peak GiB of a whole `dptrain sweep`, start of Python to report, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dptrain", "sweep", *overrides, f"output={folder}/out"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: {' '.join(command)}")
        return time.perf_counter() - start, usage.ru_maxrss / 2**20


def by_hand_seconds() -> tuple[float, str]:
    """The training of the quickstart sweep as one writes it today: 16 plain models, then 16 with Opacus at each of three epsilons, one
    after the other, every model's logits, and LiRA's Gaussians in a loop over examples. A few steps are timed and scaled."""
    case = Case("quickstart", "mlp", {"hidden": [128]}, (784,), 10, 512, 0)
    steps, timed = math.ceil(50 * 2000 / 512), 5
    ordinary, private = statistics.median(plain(case, 20)), statistics.median(opacus(case, timed, "hooks"))
    model, (x, _) = case.build(), batch_of(case, 4000)
    start = time.perf_counter()
    with torch.no_grad():
        model(x)
    logits = time.perf_counter() - start
    from scipy.stats import norm

    phi, examples = np.random.default_rng(0).normal(size=(16, 4000)), 200
    start = time.perf_counter()
    for i in range(examples):
        inside, outside = phi[1:8, i], phi[8:, i]
        norm.logpdf(phi[0, i], inside.mean(), inside.std()) - norm.logpdf(phi[0, i], outside.mean(), outside.std())
    lira = (time.perf_counter() - start) * 4000 / examples
    total = 16 * steps * (ordinary + 3 * private) + 64 * (logits + lira)
    told = f"16 models x {steps} steps x ({1e3 * ordinary:.1f} ms plain + 3 x {1e3 * private:.0f} ms Opacus hooks), {timed} steps timed; LiRA from {examples} of 4,000 examples"
    return total, told


def sweeps() -> dict[str, object]:
    """Whole sweeps against the number of models, epsilons and examples, and against the same done by hand."""
    short = ["dataset.pool=4000", "training.epochs=10", "attacks=[loss,lira]", "epsilons=[8]"]
    found: dict[str, object] = {}
    for name, overrides in (
        ("16 models", [*short, "models_per_setting=16"]),
        ("64 models", [*short, "models_per_setting=64"]),
        ("16 models, 4 epsilons", [*short, "epsilons=[8,4,2,1]"]),
        ("16 models, half the examples", [*short, "dataset.pool=2000", "training.batch_size=256"]),
        ("the quickstart", ["experiment=quickstart"]),
    ):
        seconds, peak = sweep_seconds(overrides)
        found[name] = {"seconds": seconds, "peak_gib": peak}
        print(f"{name:<32}{seconds:>8.1f} s{peak:>8.2f} GiB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.npz"
        rng = np.random.default_rng(0)
        np.savez(file, inputs=rng.integers(0, 256, (62_000, 784), np.uint8), labels=rng.integers(0, 10, 62_000))
        large = ["dataset=npz", f"dataset.path={file}", "dataset.pool=60000", "dataset.population=1000", "dataset.test=1000"]
        seconds, peak = sweep_seconds([*large, "models_per_setting=64", "epsilons=[8]", "training.epochs=1", "attacks=[loss,lira]"])
    found["64 models, 60,000 examples"] = {"seconds": seconds, "peak_gib": peak}
    print(f"{'64 models, 60,000 examples':<32}{seconds:>8.1f} s{peak:>8.2f} GiB")
    by_hand, told = by_hand_seconds()
    found["the quickstart by hand"] = {"seconds": by_hand, "scaled_from": told}
    print(f"{'the quickstart by hand':<32}{by_hand:>8.0f} s  (scaled: {told})")
    times = {name: value["seconds"] for name, value in found.items()}  # type: ignore[index]
    print(f"64 models / 16 models: {times['64 models'] / times['16 models']:.2f}")
    print(f"by hand / dptrain: {times['the quickstart by hand'] / times['the quickstart']:.0f}")
    return found


def allocator_gain() -> dict[str, float]:
    """Private steps of the CNN without and with the allocator setting, each in processes of its own, interleaved."""
    code = (
        "import sys, statistics; sys.path.insert(0, sys.argv[2]); import bench; from dptrain import allocator;"
        "sys.argv[1] == 'kept' and allocator.keep_memory();"
        "print(statistics.median(bench.ours(bench.CASES[3], 16, 1, True)[4:]))"
    )
    seconds: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(3):
        for name in seconds:
            command = [sys.executable, "-c", code, name, str(Path(__file__).parent)]
            seconds[name].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    print(f"allocator, private step of the CNN: {medians['default']:.1f} ms by default, {medians['kept']:.1f} ms with memory kept")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="step times only, fewer of them")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 2")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.device('cpu')}")
    gain = None if options.quick else allocator_gain()
    allocator.keep_memory()
    record: dict[str, object] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    record["rows"] = step_table(options.rounds or (2 if options.quick else 5), options.quick)
    if not options.quick:
        record["allocator_ms"], record["sweeps"] = gain, sweeps()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
