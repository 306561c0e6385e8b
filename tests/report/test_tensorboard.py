"""Tests of report.tensorboard."""

import subprocess
import time

import pytest

from dptrain import cli
from dptrain.core.errors import ConfigError, LayerError
from dptrain.report import tensorboard
from tests.common import TINY
from tests.helpers.sweep import command, go
from tests.helpers.tables import loaded, table


def test_column_names_reach_no_terminal_and_no_page_as_they_are(tmp_path, capsys):
    frame = table().rename(columns={"a": "\x1b[2J\x07evil"})
    with pytest.raises((ConfigError, LayerError)) as error:
        loaded(tmp_path, frame)
    assert "\x1b" not in str(error.value)
    assert "\\x1b[2J" in str(error.value)
    assert cli.main(["sweep", "dataset.path=\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert (
        tensorboard._plain("![x](http://there/pixel.png) <img src=x>")
        == r"\!\[x\]\(http://there/pixel.png\) \<img src=x\>"
    )


@pytest.mark.long
def test_a_kill_while_tensorboard_is_cleared_locks_nothing(tmp_path, monkeypatch):
    go(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "dptrain.report.tensorboard.shutil.rmtree",
            lambda *_, **__: (_ for _ in ()).throw(SystemExit),
        )
        with pytest.raises(SystemExit):
            go(tmp_path, "attacks=[loss]")
    go(tmp_path, "attacks=[loss]")
    assert not list(tmp_path.glob(".tensorboard.*"))


def test_somebody_elses_tensorboard_is_left_alone(tmp_path, capsys):
    mine = tmp_path / "tensorboard" / "mine"
    mine.mkdir(parents=True)
    assert cli.main(["sweep", *TINY, f"output={tmp_path}"]) == 2
    assert "holds files that dptrain did not write" in capsys.readouterr().err
    assert mine.exists()


@pytest.mark.long
def test_live_curves_while_training(tmp_path):
    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            found := list(tmp_path.glob("tensorboard/live/*/*/events*"))
        ):
            time.sleep(0.01)
        assert found
    finally:
        process.kill()
        process.wait()
