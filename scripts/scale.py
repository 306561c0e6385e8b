"""How a sweep of many models would run on many workers: a discrete-event simulation.

    python scripts/scale.py [--models 10000] [--workers 100]

The measured numbers of MEASURED go in: what a chunk costs the driver, and each byte of its state.
Some chunks take longer than others. Workers are lost and preempted at
random; what they held is done again from the last chunk that came back, with the very same noise.
The driver serves one chunk after another: it charges the ledger, writes the checkpoint and sends
the next. docs/scale.md says what comes out, and what breaks first.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """stacks: to train, of `work` seconds each on one worker; chunk: seconds of a chunk, of which
    `state` bytes come back; fixed and per_byte: seconds that a chunk takes the driver; straggle:
    standard deviation of the logarithm of a chunk's time; lost: mean hours between losses of one
    worker, which is replaced after `back` seconds.
    """

    stacks: int
    work: float
    workers: int
    chunk: float
    state: float
    fixed: float
    per_byte: float
    straggle: float = 0.0
    lost: float = math.inf
    back: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """hours: until the last stack is finished; busy: share of the workers' time in chunks that
    counted; redone: share of that time spent on chunks that were lost; driver: share of the time in
    which the driver was at work.
    """

    hours: float
    busy: float
    redone: float
    driver: float


def simulate(cluster: Cluster, seed: int = 0) -> Outcome:
    """Events are the ends of chunks. What a lost worker held goes to the next that is free, and a
    stack that was begun goes on before another begins.
    """
    rng = np.random.default_rng(seed)
    waiting = [math.ceil(cluster.work / cluster.chunk)] * cluster.stacks  # chunks left of each
    free = [0.0] * cluster.workers  # when each worker that idles can begin
    running: list[tuple[float, float, int, bool]] = []  # end, seconds, chunks left, lost
    service = cluster.fixed + cluster.per_byte * cluster.state
    driver = driver_busy = counted = redone = now = 0.0
    while waiting or running:
        while waiting and free and (free[0] <= now or not running):
            now = max(now, heapq.heappop(free))
            # The driver charges the ledger and sends the chunk before the worker begins.
            driver = max(driver, now) + service
            driver_busy += service
            seconds, lost = _chunk(cluster, rng)
            heapq.heappush(running, (driver + seconds, seconds, waiting.pop(), lost))
        if waiting and free and free[0] < running[0][0]:
            now = free[0]
            continue
        now, seconds, left, lost = heapq.heappop(running)
        heapq.heappush(free, now + (cluster.back if lost else 0.0))
        redone, counted = redone + seconds * lost, counted + seconds * (not lost)
        if lost or left > 1:
            waiting.append(left if lost else left - 1)
    total = cluster.workers * now
    return Outcome(now / 3600, counted / total, redone / total, driver_busy / now)


def _chunk(cluster: Cluster, rng: np.random.Generator) -> tuple[float, bool]:
    """Seconds that a chunk runs, and whether its worker is lost in them."""
    seconds = cluster.chunk * float(np.exp(rng.normal(0, cluster.straggle)))
    alive = math.inf
    if math.isfinite(cluster.lost):
        alive = float(rng.exponential(cluster.lost * 3600))
    return min(seconds, alive), alive < seconds


MEASURED = Cluster(
    stacks=0, work=0, workers=0, chunk=30, state=0, fixed=0.003, per_byte=6e-9, straggle=0.05
)
"""fixed and per_byte are those of results/reference/bench/executors.json (scripts/bench.py),
on one core and a local disk; straggle is a guess, and `--straggle` sets another.
"""
CASES = (
    ("MLP, 101,770 parameters", 16, 2 * 101_770 * 4, 120.0),
    ("CNN, 26,010 parameters", 16, 2 * 26_010 * 4, 900.0),
    ("WRN-16-4, 2,748,890 parameters", 16, 3 * 2_748_890 * 4, 7200.0),
)
"""Models of a stack, bytes of a model's state (parameters, momentum, average), and seconds of a
stack's training on one worker, which are assumed: no GPU was there to measure them.
"""
DRIVER_SHARE = 2
"""As fleet.executors.remote has it: chunks grow until the driver is busy for half of the time."""


def grown(cluster: Cluster) -> Cluster:
    """With chunks as long as the driver makes them: never shorter than keeps it half idle, and
    never longer than a stack.
    """
    service = cluster.fixed + cluster.per_byte * cluster.state
    least = DRIVER_SHARE * min(cluster.workers, cluster.stacks) * service
    return replace(cluster, chunk=min(cluster.work, max(cluster.chunk, least)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--lost", type=float, default=24.0, help="hours between losses of a worker")
    parser.add_argument("--straggle", type=float, default=MEASURED.straggle)
    options = parser.parse_args()
    print("\n".join(table(options.models, options.workers, options.lost, options.straggle)))


def table(models: int, workers: int, lost: float, straggle: float) -> list[str]:
    """Markdown of every case, with chunks of 30 s and with chunks as the driver makes them."""
    lines = [
        "| model | workers | chunk | hours | workers busy | done again | driver busy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, width, state, work in CASES:
        for factor, grow in itertools.product((1, 10), (False, True)):
            cluster = replace(
                MEASURED,
                stacks=math.ceil(models / width),
                work=work,
                workers=workers * factor,
                state=width * state,
                lost=lost,
                straggle=straggle,
            )
            cluster = grown(cluster) if grow else cluster
            it = simulate(cluster)
            lines.append(
                f"| {name} | {cluster.workers:,} | {cluster.chunk:.0f} s{', grown' * grow} | "
                f"{it.hours:.2f} | {100 * it.busy:.0f} % | {100 * it.redone:.1f} % | "
                f"{100 * it.driver:.0f} % |"
            )
    return lines


if __name__ == "__main__":
    main()
