"""Tests of cli."""

import errno
import os

import pytest

from dptrain import cli
from dptrain.core import store
from dptrain.fleet.executors.base import WorkerDied
from dptrain.pipeline import training
from tests.helpers.tables import DIGITS


def test_unknown_command(capsys):
    assert cli.main(["swep"]) == 2
    assert (
        capsys.readouterr().err
        == "dptrain: error: unknown command 'swep'; choose from sweep, attack, calibrate, "
        "advise, show, report, tensorboard, train, tune, export, predict, reproduce, store, "
        "inspect, list\n"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_faults_of_the_machine_are_one_line_and_exit_code_3(tmp_path, monkeypatch, capsys, code):
    def fails(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(store, "_write_synced", fails)
    assert cli.main(["sweep", *DIGITS, f"output={tmp_path}"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dptrain: ")]
    assert len(told) == 1
    assert os.strerror(code) in told[0]
    assert "the same command goes on" in told[0]


def test_a_worker_that_dies_is_one_line(tmp_path, monkeypatch, capsys):
    def dies(*_, **__):
        raise WorkerDied("a worker died with exit code -9")

    monkeypatch.setattr(training, "execute", dies)
    assert cli.main(["sweep", *DIGITS, f"output={tmp_path}"]) == 3
    assert (
        "dptrain: stopped: a worker died with exit code -9; use fewer workers "
        "(training.workers=1). What was finished is on disk" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["experiment=../../etc/passwd"],
        ["dataset=../../x"],
        ["defences=[../none]"],
        ["attacks=[../../loss]"],
        ["epsilons=" + "[" * 5000],
        ["model.hidden=" + "{a:" * 2000],
        ["name=\udcff"],
        ["epsilons=[8", "name=]["],
        ["--nothing", "seed=0"],
    ],
)
def test_hostile_arguments_are_one_line(arguments, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dptrain: error: ")
    assert told.count("\n") == 1
    assert len(told) < 7000


def test_attacks_of_packages_are_listed(fake_package, capsys):
    assert cli.main(["list"]) == 0
    assert "scaled             of the package plugin-models" in capsys.readouterr().out
