"""Tests of fleet.stacks."""

import itertools
import json
import shutil
import signal
import subprocess
import time

import pytest

from dptrain.config import compose
from dptrain.core.store import Store
from dptrain.fleet import stacks
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import load as load_fleet
from dptrain.training.noise import GaussianNoise
from tests.common import TINY
from tests.helpers.sweep import close, command, go, ledgers, parameters, saved_since, trajectories


def dies(*_):
    raise SystemExit


def test_fresh_noise_by_default_and_never_shared(tmp_path):
    one, two = (go(tmp_path / name, "privacy.noise=os", "epsilons=[8]") for name in ("one", "two"))
    first, second = parameters(one.folder), parameters(two.folder)
    assert set(first) == set(second)
    assert all(first[key] != second[key] for key in first)
    assert not list((tmp_path / "one" / "store").glob("checkpoint/*"))  # the keys are gone


@pytest.mark.parametrize("noise", ["os", "seeded"])
def test_no_two_models_of_a_sweep_share_a_key(tmp_path, noise):
    """Two releases under one noise stream give away the gradient between them (reliability hazard
    5).
    """
    ready = plan(compose.load("sweep", [*TINY, "epsilons=[inf,8,2]", f"privacy.noise={noise}"]))
    fleet = load_fleet(ready, Store(tmp_path))
    secrets = [
        stacks.secret_key(fleet, setting, index) for setting in ready.settings for index in range(6)
    ]
    assert len(set(secrets)) == 18
    again = [
        stacks.secret_key(fleet, setting, index) for setting in ready.settings for index in range(6)
    ]
    assert (again == secrets) == (noise == "seeded")


@pytest.mark.long
def test_a_damaged_model_beside_a_checkpoint_is_made_again(tmp_path, monkeypatch):
    """A block's checkpoint holds one model; another model of the block is lost meanwhile."""
    whole = parameters(go(tmp_path / "whole").folder)
    folder = tmp_path / "cut"
    go(folder)
    models_of = sorted((folder / "store" / "model").iterdir())
    shutil.rmtree(models_of[0])
    (folder / "metrics.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("dptrain.fleet.models.parameter_file", dies)
        with pytest.raises(SystemExit):
            go(folder)
    for other in models_of[1:]:
        shutil.rmtree(other)
    assert set(parameters(go(folder).folder)) == set(whole)


@pytest.mark.long
def test_resume_equals_uninterrupted_bit_for_bit(tmp_path, uninterrupted):
    """Killed, interrupted and terminated in turn, at ever later points, until it finishes."""
    interruptions, wait = [], 0.3
    for number in itertools.cycle([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]):
        start = time.time()
        process = subprocess.Popen(
            command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not saved_since(tmp_path, start):
            time.sleep(0.005)
        time.sleep(wait)
        wait *= 3
        process.send_signal(number)
        _, err = process.communicate()
        if process.returncode == 0:
            break
        interruptions.append(number)
        assert process.returncode in (130, -number), err
        assert "Traceback" not in err, err
    assert {signal.SIGKILL, signal.SIGINT, signal.SIGTERM} <= {*interruptions, number}
    whole, rows, losses, spent = uninterrupted
    assert ledgers(tmp_path) == spent
    assert parameters(tmp_path) == whole
    assert trajectories(tmp_path) == losses
    assert len(losses) == len(whole)
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"] == rows
    assert not list(tmp_path.rglob("*.tmp"))


def test_torn_artefacts_are_made_again(tmp_path):
    first = go(tmp_path)
    whole = parameters(first.folder)
    model = next((tmp_path / "store" / "model").iterdir()) / "parameters.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    (tmp_path / "report.html").unlink()
    again = go(tmp_path)
    assert again.trained == 1
    close(again.folder, whole)  # alone it is trained in a stack of one


@pytest.mark.long
def test_a_kill_between_the_models_of_a_stack_trains_nothing_twice(tmp_path, monkeypatch):
    """The first model of a stack is stored, then the process dies: the others come from the
    checkpoint, not from new noise.
    """
    whole = parameters(go(tmp_path / "whole").folder)
    written, steps = Store.write, []

    def die(self, stage, key, files):
        written(self, stage, key, files)
        if stage == "model":
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", die)
        with pytest.raises(SystemExit):
            go(tmp_path / "killed")
    assert len(parameters(tmp_path / "killed")) == 1
    noise = GaussianNoise.draw
    monkeypatch.setattr(
        GaussianNoise,
        "draw",
        lambda self, keys, step: steps.append((len(keys), step)) or noise(self, keys, step),
    )
    go(tmp_path / "killed", "epsilons=[inf]")
    again = go(tmp_path / "killed")
    assert parameters(again.folder) == whole
    # The three private stacks, eight steps each: nothing of the first stack.
    assert len(steps) == 3 * 8


def test_another_stack_width_leaves_no_keys(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dptrain.fleet.models.parameter_file", dies)
        with pytest.raises(SystemExit):
            go(tmp_path)
    assert list((tmp_path / "store" / "checkpoint").glob("*.bin"))
    go(tmp_path, "training.width=3")
    assert not list((tmp_path / "store" / "checkpoint").glob("*.bin"))


def test_checkpoints_are_for_their_owner_alone_and_reveal_damage(tmp_path):
    store = Store(tmp_path)
    store.write_file("checkpoint", "k", b"secret keys")
    path = tmp_path / "checkpoint" / "k.bin"
    assert path.stat().st_mode & 0o077 == 0
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert store.read_file("checkpoint", "k") is None
