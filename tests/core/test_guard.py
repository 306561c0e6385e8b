"""Tests of core.guard."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from dptrain.core import guard
from dptrain.core.errors import ConfigError, LayerError
from tests.common import ROOT


def slow_work(folder, place):
    def work(job, emit, stop):
        (folder / "started").touch()
        time.sleep(job)
        (folder / "written").touch()

    return work


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.long
def test_a_worker_whose_parent_was_killed_writes_nothing(tmp_path):
    code = (
        "import functools, pathlib, sys\n"
        "from tests.core.test_guard import slow_work\n"
        "from dptrain.core import guard\n"
        "from dptrain.fleet.executors import processes\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with guard.only_writer(folder):\n"
        "    places = [processes.Place('cpu', 1)] * 2\n"
        "    processes.run([4, 4], functools.partial(slow_work, folder), places, print, "
        "lambda: False, folder)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    for _ in range(600):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    with (
        pytest.raises((ConfigError, LayerError), match="another dptrain is at work"),
        guard.only_writer(tmp_path),
    ):
        pass
    parent.kill()
    parent.wait()
    time.sleep(5)
    assert not (tmp_path / "written").exists()
    with guard.only_writer(tmp_path):
        pass


def test_a_folder_is_not_held_while_a_worker_of_an_earlier_run_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "ORPHAN_SECONDS", 0.3)
    with guard.only_writer(tmp_path):
        pass
    worker = os.open(tmp_path / guard.WORKERS, os.O_RDWR)
    fcntl.flock(worker, fcntl.LOCK_SH)
    with (
        pytest.raises(
            (ConfigError, LayerError),
            match="workers of a dptrain that was killed are still at work",
        ),
        guard.only_writer(tmp_path),
    ):
        pass
    os.close(worker)
    with guard.only_writer(tmp_path):
        pass


def test_a_lock_that_is_a_link_leads_nowhere(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with (
        pytest.raises((ConfigError, LayerError), match="cannot write"),
        guard.only_writer(tmp_path / "run"),
    ):
        pass
    assert precious.read_text() == "kept"
