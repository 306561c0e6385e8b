"""Training speed of the quickstart sweep, against this machine's matrix products and against Opacus's default hooks, in one run.

    python scripts/bench.py [--steps 40] [--rounds 3] [--out results/bench/quickstart.json]

Everything is measured in interleaved rounds, because machines are shared and noisy; medians are printed. Ratios of figures from
different runs mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dptrain import config, data, sampling
from dptrain.fleet import build
from dptrain.sweep import plan
from dptrain.train import State, train


def matrix_product_rate() -> float:
    """float32 multiply-adds of a 2048 x 2048 product, in GFLOP/s."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    start = time.perf_counter()
    for _ in range(8):
        a @ b
    return 8 * 2 * 2048**3 / (time.perf_counter() - start) / 1e9


def step_flops(model: nn.Module, batch: int) -> float:
    """Floating-point operations of the matrix products that one plain step of one model cannot do without: forward, weight gradients,
    and input gradients of every layer but the first; a batch of the expected size."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    sizes = [layer.in_features * layer.out_features for layer in layers]
    return 2 * batch * (2 * sum(sizes) + sum(sizes[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of a stack in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--opacus-steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    settings = config.load("sweep", ["experiment=quickstart"])
    ready = plan(settings)
    parts = settings.dataset
    pool = data.load(parts.name, parts.pool, parts.population, parts.test, settings.seed).pool
    inputs, labels = torch.from_numpy(pool.inputs), torch.from_numpy(pool.labels)
    width = settings.training.width
    membership = sampling.memberships(width, parts.pool, sampling.os_key())
    models = [build(settings, seed) for seed in range(width)]
    batch = settings.training.batch_size
    flops = step_flops(models[0], batch)

    def stack_step(index: int) -> float:
        """Seconds of one step of one model of a setting, trained as the sweep trains it."""
        setting = ready.settings[index]
        short = replace(setting, mechanism=replace(setting.mechanism, steps=options.steps))
        keys = [sampling.os_key() for _ in models]
        start = time.perf_counter()
        train(models[0], short, ready.engine, State.start(models), keys, inputs, labels, membership, lambda *_: None)
        return (time.perf_counter() - start) / options.steps / width

    def opacus_step() -> float:
        """Seconds of one DP-SGD step with Opacus's PrivacyEngine as its README sets it up: default hooks, Poisson sampling."""
        members = torch.from_numpy(membership[0])
        loader = DataLoader(TensorDataset(inputs[members], labels[members]), batch_size=batch)
        model = build(settings)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        private, stepper, batches = PrivacyEngine().make_private(
            module=model, optimizer=optimiser, data_loader=loader, noise_multiplier=2.0, max_grad_norm=1.0
        )
        times = []
        while len(times) < options.opacus_steps:
            for x, y in batches:
                start = time.perf_counter()
                stepper.zero_grad()
                nn.functional.cross_entropy(private(x), y).backward()
                stepper.step()
                times.append(time.perf_counter() - start)
                if len(times) == options.opacus_steps:
                    break
        return statistics.median(times)

    steps: dict[str, Callable[[], float]] = {s.name: lambda i=i: stack_step(i) for i, s in enumerate(ready.settings)}  # type: ignore[misc]
    steps["opacus hooks"] = opacus_step
    matrix_product_rate()
    for measure in steps.values():
        measure()
    rates: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, measure in steps.items():
            rates.append(matrix_product_rate())
            seconds[name].append(measure())
    rate = statistics.median(rates)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    rows = [{"setting": name, "step_ms": 1e3 * value, "gflops": flops / value / 1e9} for name, value in median.items()]
    names = [setting.name for setting in ready.settings]
    private = statistics.mean(median[s.name] for s in ready.settings if s.mechanism.private)
    whole = flops / statistics.mean(median[name] for name in names) / 1e9
    print(
        f"matrix product 2048: {rate:.0f} GFLOP/s (median of {len(rates)}, {min(rates):.0f}-{max(rates):.0f}); {torch.get_num_threads()} threads"
    )
    print(f"{flops / 1e6:.0f} MFLOP a step of one model at batch {batch}; stacks of {width}")
    print(f"{'setting':<14}{'ms a model-step':>16}{'GFLOP/s':>10}{'of the machine':>16}")
    for row in rows:
        print(f"{row['setting']:<14}{row['step_ms']:>16.2f}{row['gflops']:>10.1f}{row['gflops'] / rate:>15.0%}")  # type: ignore[operator]
    print(f"the four settings together: {whole / rate:.0%} of the machine's matrix-product rate")
    print(f"a private step, Opacus's hooks / ours: {median['opacus hooks'] / private:.0f}x")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "matrix_product_gflops": rate,
            "rows": rows,
            "share_of_machine": whole / rate,
            "times_opacus_hooks": median["opacus hooks"] / private,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
