"""Tests of report.tensorboard."""

import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dptrain import cli
from dptrain.core.errors import ConfigError, LayerError, RunError
from dptrain.report.charts import tensorboard
from dptrain.report.record import Record, roc_of
from tests.common import TINY
from tests.helpers.sweep import command, go
from tests.helpers.tables import loaded, table
from tests.report.test_advice import setting


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


def test_no_smoothing_and_no_cut_of_outliers_moves_a_proof(tmp_path):
    """Every bar of the first page is a constant of its run, which any smoothing leaves as it is,
    and its numbers are so many that the cut at the 5th and 95th percentiles leaves all.
    """
    rows = [
        row
        for place in range(15)
        for row in setting(f"s{place}", 0.5 + place / 50, 0.5 + place / 40, 1.0 + place, 0.9)
    ]
    record = Record(name="n", rows=rows, rocs=[roc_of(f"s{n}", {}, None, 100) for n in range(15)])
    tensorboard.rebuild(tmp_path / "tb", record, {}, {})
    for name in (tensorboard.UTILITY, tensorboard.RISK, tensorboard.REACH):
        for tag in tensorboard._margins(name):
            every = []
            for place in range(15):
                events = EventAccumulator(str(tmp_path / "tb" / f"s{place}")).Reload()
                values = [event.value for event in events.Scalars(tag)]
                assert len(set(values)) == 1
                every += values
            low, high = np.quantile(every, [0.05, 0.95])
            assert (low, high) == (min(every), max(every))


def test_the_layout_names_what_is_there(tmp_path):
    rows = [*setting("none", 0.9, 0.6), *setting("dpsgd-2", 0.8, 0.55, 2.0, 0.64)]
    rocs = [roc_of(name, {}, None, 100) for name in ("none", "dpsgd-2")]
    record = Record(name="n", rows=rows, rocs=rocs, config={"seed": 3})
    tensorboard.rebuild(tmp_path / "tb", record, {}, {})
    overview = EventAccumulator(str(tmp_path / "tb" / "overview")).Reload()
    [config] = overview.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout()
    layout.ParseFromString(config.tensor_proto.string_val[0])
    [page] = layout.category
    series = [each for chart in page.chart for each in chart.margin.series]
    tags = {tag for each in series for tag in (each.value, each.lower, each.upper)}
    bars = {}
    for name in ("none", "dpsgd-2"):
        events = EventAccumulator(str(tmp_path / "tb" / name)).Reload()
        assert tags <= set(events.Tags()["scalars"])
        bars[name] = events.Scalars("trade-off/AUC, measured to proved")
        compared = events.Scalars("compared by/strongest AUC")
        assert len(compared) == 1
    # Nothing is proved of none: an attack may find everybody. It stands at the right end.
    assert {event.value for event in bars["none"]} == {1.0}
    assert {event.value for event in bars["dpsgd-2"]} == {np.float32(0.64)}
    assert min(each.step for each in bars["none"]) > max(each.step for each in bars["dpsgd-2"])
    assert abs(np.mean([each.step for each in bars["dpsgd-2"]]) - 2000) < 1


def test_a_refuted_proof_is_no_proof(tmp_path):
    rows = [replace(row, contradicted=True) for row in setting("dpsgd-2", 0.8, 0.7, 2.0, 0.64)]
    record = Record(name="n", rows=rows, rocs=[roc_of("dpsgd-2", {}, None, 100)])
    tensorboard.rebuild(tmp_path / "tb", record, {}, {})
    events = EventAccumulator(str(tmp_path / "tb" / "dpsgd-2")).Reload()
    assert {each.value for each in events.Scalars("trade-off/AUC, measured to proved")} == {1.0}
    assert "compared by/proved ceiling of the AUC" not in events.Tags()["scalars"]


@pytest.mark.long
def test_a_server_tells_its_address_and_what_keeps_it_from_a_port(tmp_path):
    rows, rocs = setting("none", 0.9, 0.6), [roc_of("none", {}, None, 100)]
    tensorboard.rebuild(tmp_path / "tensorboard", Record(name="n", rows=rows, rocs=rocs), {}, {})
    serve = [sys.executable, "-m", "dptrain", "tensorboard", f"run={tmp_path}"]
    with subprocess.Popen([*serve, "port=0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            address = re.search(r"TensorBoard at (http://.*:(\d+)/)#custom_scalars; Ctrl-C", line)
            with urllib.request.urlopen(f"{address[1]}data/logdir") as answer:
                assert str(tmp_path) in answer.read().decode()
            taken = subprocess.run([*serve, f"port={address[2]}"], capture_output=True, text=True)
            assert taken.returncode == 2
            assert "dptrain: error: run: cannot serve it" in taken.stderr
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
        finally:
            server.kill()
    with pytest.raises(RunError, match="has no tensorboard files"):
        tensorboard.serve(tmp_path / "nowhere", "localhost", 0)


@pytest.mark.long
def test_a_kill_while_tensorboard_is_cleared_locks_nothing(tmp_path, monkeypatch):
    go(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "dptrain.report.charts.tensorboard.shutil.rmtree",
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
