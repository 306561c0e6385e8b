"""Jobs in this process and in others: the same events, errors that come back whole, workers that
stop.
"""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from dptrain.core.errors import TrainingError
from dptrain.fleet.executors.base import Interrupted
from dptrain.fleet.executors.processes import run
from tests.common import ROOT
from tests.helpers.jobs import HERE, TWO, squares
from tests.helpers.sweep import close, command, saved_since


def go(jobs, places, stop=lambda: False):
    events = []
    run(jobs, functools.partial(squares, 1), places, events.append, stop)
    return events


@pytest.mark.parametrize("places", [HERE, TWO], ids=["here", "processes"])
def test_every_job_is_done_once(places):
    events = go(list(range(7)), places)
    assert sorted(event[:2] for event in events) == [(n, n * n + 1) for n in range(7)]
    assert (os.getpid() in {event[2] for event in events}) == (places is HERE)


def test_one_job_needs_no_process():
    assert go([3], TWO) == [(3, 10, os.getpid())]
    assert go([], TWO) == []


@pytest.mark.parametrize("places", [HERE, TWO], ids=["here", "processes"])
def test_an_error_comes_back_whole(places):
    with pytest.raises(TrainingError, match=r"^workers: as a test") as found:
        go([1, "fail", 2], places)
    assert found.value.about == "workers"


@pytest.mark.parametrize("places", [HERE, TWO], ids=["here", "processes"])
def test_stop_interrupts(places):
    began = time.monotonic()
    with pytest.raises(Interrupted):
        go(["wait", "wait"], places, stop=lambda: time.monotonic() > began + 0.5)


def test_an_error_stops_the_others():
    with pytest.raises(TrainingError):
        go(["wait", "fail"], TWO)


def test_a_program_without_a_main_guard_is_not_run_again(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import functools, tests.helpers.jobs as t\n"
        "from dptrain.fleet.executors.processes import run\n"
        "print('once', flush=True)\n"
        "run([1, 2], functools.partial(t.squares, 0), t.TWO, lambda event: "
        "print(event[1]), lambda: False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, env=environment, check=True
    )
    assert sorted(ran.stdout.split()) == ["1", "4", "once"]


@pytest.mark.parametrize(
    ("job", "code", "other"),
    [
        ("die", 9, "chatter"),
        pytest.param("die", 9, "wait", marks=pytest.mark.long),
        pytest.param("vanish", 0, "chatter", marks=pytest.mark.long),
        ("vanish", 0, "wait"),
    ],
)
def test_a_worker_that_dies_is_reported_at_once(job, code, other):
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=f"exit code {code}"):
        go([job, other], TWO)
    assert time.monotonic() < began + 40


def test_any_other_error_comes_back_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*helpers.jobs.*Odd"):
        go(["odd", "wait"], TWO)


@pytest.mark.long
def test_workers_that_are_killed_and_stopped_give_the_same_models(tmp_path, uninterrupted):
    """Two processes: the parent is killed, then interrupted, and its workers end with it; at last
    it finishes.
    """
    checkpoint = tmp_path / "store" / "checkpoint"
    for number in (signal.SIGKILL, signal.SIGINT, None):
        start = time.time()
        process = subprocess.Popen(
            command(tmp_path, "training.workers=2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while number and process.poll() is None and not saved_since(tmp_path, start):
            time.sleep(0.005)
        if number == signal.SIGKILL:
            process.kill()
        elif number:
            os.killpg(process.pid, number)  # as the terminal does
        out, err = process.communicate()
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, None: 0}[number], err
        # A worker that was just being sent its work complains.
        assert "Traceback" not in err or number == signal.SIGKILL, err
    assert "models trained now" in out
    close(tmp_path, uninterrupted[0])
    assert not list(checkpoint.iterdir())
