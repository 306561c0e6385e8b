"""What is said of a sweep before it starts, held against what it then is."""

import json
import shutil

import pytest

from dptrain import cli
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.pipeline.run import forecast, sweep
from tests.common import TINY
from tests.helpers.sweep import go


def of(folder, *more):
    return forecast(compose.load("sweep", [*TINY, f"output={folder}", "dry_run=true", *more]))


def composed(folder):
    privacy = json.loads((folder / "metrics.json").read_text())["privacy"]
    return privacy["dpsgd-8"]["evaluated"]["composed"]["epsilon"]


@pytest.mark.long
@pytest.mark.parametrize("noise", ["os", "seeded"])
def test_epsilon_of_all_models_is_what_the_sweep_comes_to(tmp_path, noise):
    said = of(tmp_path, f"privacy.noise={noise}")
    assert [(each.name, each.models, each.of) for each in said.settings] == [
        ("none", 6, 6),
        ("dpsgd-8", 6, 6),
    ]
    assert not list(tmp_path.glob("store/model/*"))  # nothing was trained
    done = go(tmp_path, f"privacy.noise={noise}")
    assert said.epsilon == pytest.approx(composed(tmp_path), rel=1e-9)
    assert said.settings[1].epsilon == done.statements["dpsgd-8"].epsilon
    # A lost model spends again, but for the very same noise.
    shutil.rmtree(tmp_path / "store" / "model")
    (tmp_path / "metrics.json").unlink()
    again = of(tmp_path, f"privacy.noise={noise}").epsilon
    assert (
        again == pytest.approx(said.epsilon, rel=1e-9)
        if noise == "seeded"
        else (again > 1.2 * said.epsilon)
    )
    go(tmp_path, f"privacy.noise={noise}")
    assert again == pytest.approx(composed(tmp_path), rel=1e-9)


def test_a_dry_run_prints_and_trains_nothing(tmp_path, capsys):
    arguments = [*TINY, f"output={tmp_path}", "dry_run=true"]
    assert cli.main(["sweep", *arguments]) == 0
    out = capsys.readouterr().out
    assert "12 models to train" in out
    assert "| dpsgd-8 | 6 of 6" in out
    assert "All models of this folder at once: epsilon" in out
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(ConfigError, match=r"^dry_run: .* call dptrain\.estimate"):
        sweep(compose.load("sweep", arguments), show_progress=False)


def test_what_cannot_fit_is_refused(tmp_path, monkeypatch):
    there = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: there)
    with pytest.raises(ConfigError, match=r"^output: 12 models take about .* free"):
        of(tmp_path)


def dies(*_):
    raise SystemExit


@pytest.mark.long
def test_nothing_that_was_charged_is_left_out(tmp_path, monkeypatch):
    """A stack was trained twice under two keys, the first checkpoint lost, the second still there;
    and half of the models are finished, whose noise the ledger holds to another last digit.
    """
    overrides = ["epsilons=[8]", "privacy.noise=os", "defence.dpsgd.clip=0.3"]
    for lost in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr("dptrain.fleet.models.parameter_file", dies)
            with pytest.raises(SystemExit):
                go(tmp_path, *overrides)
        (checkpoint,) = (tmp_path / "store" / "checkpoint").iterdir()
        if lost:
            checkpoint.unlink()
    twice = of(tmp_path, *overrides).epsilon
    go(tmp_path, *overrides)
    assert twice == pytest.approx(composed(tmp_path), rel=1e-9)
    assert twice > 1.1 * of(tmp_path / "fresh", *overrides).epsilon
    more = of(tmp_path, *overrides, "models_per_setting=8").epsilon
    go(tmp_path, *overrides, "models_per_setting=8")
    assert more == pytest.approx(composed(tmp_path), rel=1e-9)
