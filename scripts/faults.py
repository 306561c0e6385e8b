#!/usr/bin/env python
"""Let every write operation of a small run fail, and look at what the next run makes of it.

scripts/faults.py                 all operations x all faults (about half an hour on 2 cores)
scripts/faults.py --every 37      some of them

Faults: the process is killed before, in the middle of and after the operation; the operation fails
with EIO or EACCES, once; the disk is full (ENOSPC) or read-only (EROFS) from there on. Wanted: no
traceback, and the same command then ends with the very numbers of an undisturbed run, with the same
files and none beside them. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LAYER = ROOT / "tests" / "faults" / "layer.c"
BEFORE, HALF, AFTER, FAIL, FULL = 1, 2, 3, 4, 5
FAULTS: dict[str, tuple[int, int]] = {
    "killed before": (BEFORE, 0),
    "killed half-way": (HALF, 0),
    "killed after": (AFTER, 0),
    "EIO": (FAIL, errno.EIO),
    "EACCES": (FAIL, errno.EACCES),
    "ENOSPC": (FULL, errno.ENOSPC),
    "EROFS": (FULL, errno.EROFS),
}
COMMAND = [
    "sweep",
    "name=small",
    "dataset=digits",
    "dataset.pool=40",
    "dataset.population=20",
    "dataset.test=20",
    "training.batch_size=10",
    "training.epochs=1",
    "training.width=2",
    "training.workers=1",
    "models_per_setting=2",
    "attacks=[loss]",
    "epsilons=[8]",
    "model=logistic",
    "privacy.noise=seeded",
    "audits=[]",
]


def build(folder: Path) -> Path:
    """Compile the layer. Raises RuntimeError where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise RuntimeError("the fault layer needs Linux and a C compiler; install gcc")
    made = folder / "layer.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(LAYER), "-ldl"], check=True
    )
    return made


class Server:
    """A process that has imported everything and forks for each run, which then takes a second."""

    def __init__(self, layer: Path):
        environment = {
            **os.environ,
            "LD_PRELOAD": str(layer),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "FAULT_LAYER": str(layer),
        }
        command = [sys.executable, str(Path(__file__)), "--serve"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, number: int = -1, mode: int = 0, error: int = 0) -> dict[str, Any]:
        """exit code (negative: a signal), operations counted, and what was printed on standard
        error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(folder), number, mode, error]), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve() -> None:
    import torch

    from dptrain import cli
    from dptrain.privacy import prv
    from dptrain.report.charts import figures

    torch.set_num_threads(1)
    vars(prv)["prv_epsilon"] = lambda *_: 1.0  # a process of its own, which writes nothing
    layer = ctypes.CDLL(os.environ["FAULT_LAYER"])
    layer.fault_count.restype = ctypes.c_long
    layer.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
    with (
        tempfile.TemporaryDirectory() as temporary,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        drawn: dict[str, bytes] = {}
        draw = figures.image
        vars(figures)["image"] = lambda figure, kind: (
            drawn.get(kind) or drawn.setdefault(kind, draw(figure, kind))
        )  # drawn once: it takes 2 s
        cli.main([*COMMAND, f"output={temporary}/run"])
    for line in sys.stdin:
        folder, number, mode, error = json.loads(line)
        with tempfile.TemporaryDirectory() as temporary:
            said, counted = Path(temporary) / "said", Path(temporary) / "counted"
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    with said.open("w") as file:
                        os.dup2(file.fileno(), 1)
                        os.dup2(file.fileno(), 2)
                    layer.fault_arm(folder.encode(), number, mode, error)
                    code = cli.main([*COMMAND, f"output={folder}/run"])
                    sys.stderr.flush()
                    counted.write_text(str(layer.fault_count()))
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            count = int(counted.read_text()) if counted.exists() else -1
            print(
                json.dumps(
                    {
                        "code": os.waitstatus_to_exitcode(status),
                        "count": count,
                        "said": said.read_text(),
                    }
                ),
                flush=True,
            )


def left(folder: Path) -> tuple[set[str], list[Any]]:
    """The files of a run, event files without their time, and its numbers."""
    names = {
        re.sub(r"events\.out.*", "events", str(path.relative_to(folder)))
        for path in folder.rglob("*")
        if path.is_file()
    }
    return names, json.loads((folder / "run" / "metrics.json").read_text())["rows"]


def trial(
    server: Server, number: int, fault: str, wanted: tuple[set[str], list[Any]]
) -> str | None:
    """What went wrong, or None."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first = server.run(folder, number, *FAULTS[fault])
        if "Traceback" in first["said"] or first["code"] not in (0, 2, 3, -9):
            return (
                f"operation {number}, {fault}: exit code {first['code']}\n{first['said'][-1500:]}"
            )
        second = server.run(folder)
        if second["code"] != 0 or "Traceback" in second["said"]:
            return (
                f"operation {number}, {fault}: the next run ended with {second['code']}\n"
                f"{second['said'][-1500:]}"
            )
        names, rows = left(folder)
        if rows != wanted[1]:
            return f"operation {number}, {fault}: other numbers than without the fault"
        if names != wanted[0]:
            return (
                f"operation {number}, {fault}: left {sorted(names - wanted[0])}, lacks "
                f"{sorted(wanted[0] - names)}"
            )
    return None


def all_trials(every: int, offset: int = 0, workers: int = 2) -> tuple[int, list[str]]:
    """How many faults were tried, and what went wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        servers = [Server(build(Path(temporary))) for _ in range(workers)]
        reference = Path(temporary) / "reference"
        reference.mkdir()
        operations = servers[0].run(reference)["count"]
        if operations < 1:
            raise RuntimeError("the undisturbed run failed")
        wanted = left(reference)
        cases = [(number, fault) for number in range(operations) for fault in FAULTS][offset::every]

        def some(worker: int) -> list[str]:
            found = []
            for number, fault in cases[worker::workers]:
                if wrong := trial(servers[worker], number, fault, wanted):
                    found.append(wrong)
                    print(wrong, file=sys.stderr, flush=True)
            return found

        with ThreadPoolExecutor(workers) as pool:
            wrong = [line for lines in pool.map(some, range(workers)) for line in lines]
        for server in servers:
            server.close()
    print(
        f"{operations} write operations x {len(FAULTS)} faults: {len(cases)} tried, "
        f"{len(wrong)} went wrong"
    )
    return len(cases), wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="try one of so many")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    return bool(all_trials(options.every)[1])


if __name__ == "__main__":
    sys.exit(main())
