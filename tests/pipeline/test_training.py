"""Tests of pipeline.training."""

import os
import re
import shutil
import signal

import pytest

from dptrain import cli
from dptrain.config import compose
from dptrain.core import limits
from dptrain.core.errors import ConfigError, LayerError
from dptrain.pipeline import run, training
from dptrain.report.statement import sentences
from tests.helpers.small_sweep import small_sweep
from tests.helpers.tables import DIGITS, digits_sweep


def test_a_damaged_private_model_is_announced_before_it_is_trained_again(tmp_path, capsys):
    small_sweep(tmp_path)
    assert "WARNING" not in capsys.readouterr().err
    [damaged, *_] = sorted((tmp_path / "store" / "model").glob("*/parameters.safetensors"))
    damaged.write_bytes(b"damaged")
    (tmp_path / "metrics.json").unlink()
    result = small_sweep(tmp_path)
    assert result.trained == 1
    told = capsys.readouterr().err
    assert told.count("WARNING: models that were trained before are damaged or gone (dpsgd-8 ") == 1
    before, after = re.search(r"come to epsilon (\d+\.\d+), after (\d+\.\d+)", told).groups()
    assert float(before) > float(after)
    assert f"({before}, " in sentences(result.statements["dpsgd-8"])["composition"]


def test_another_configuration_in_the_same_folder_is_no_damage(tmp_path, capsys):
    small_sweep(tmp_path)
    assert small_sweep(tmp_path, "training.epochs=2").trained == 4
    assert "WARNING" not in capsys.readouterr().err


def test_what_a_run_takes_is_said_and_checked_before_it_starts(tmp_path, monkeypatch, capfd):
    measured = [part for part in DIGITS if not part.startswith("training.width")]
    run.sweep(compose.load("sweep", [*measured, f"output={tmp_path / 'one'}"]))
    assert re.search(
        r"2 models to train, .*; about [\d,]+ s, [\d,]+ MiB on disk", capfd.readouterr().err
    )
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10_000)
    )
    with pytest.raises((ConfigError, LayerError), match="GiB are free at"):
        digits_sweep(tmp_path / "other")
    monkeypatch.setattr(limits, "memory", lambda: 10_000)
    with pytest.raises((ConfigError, LayerError), match="half of this machine's memory"):
        digits_sweep(tmp_path / "third")


def test_a_stop_when_the_last_model_has_just_ended_is_a_stop(tmp_path, monkeypatch, capsys):
    execute = training.execute

    def interrupted(*arguments):
        execute(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "execute", interrupted)
    assert cli.main(["sweep", *DIGITS, f"output={tmp_path}"]) == 130
    assert "everything saved" in capsys.readouterr().err
    monkeypatch.setattr(training, "execute", execute)
    assert cli.main(["sweep", *DIGITS, f"output={tmp_path}"]) == 0
    assert "\n0 models trained now" in capsys.readouterr().out
